"""One pack run from scan to finished archive, without a word about who executes its batches."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from callic_archive.archive.codecs import CodecPlan
from callic_archive.archive.commit import Finished, finish
from callic_archive.archive.duplicates import group_candidates
from callic_archive.archive.entries import Entry, with_whole_digests
from callic_archive.archive.pack_one import PackOptions
from callic_archive.archive.packer import SHARD_BYTES, BatchResult, PackJob, ShardSink, write_plain
from callic_archive.archive.recovery import recover_shards
from callic_archive.archive.scan import Problem, Scan, Selection, Source
from callic_archive.archive.staging import Staging
from callic_archive.container.layout import PARTIAL_SUFFIX, RecordRef, RecordType
from callic_archive.container.writer import SealedShard


@dataclass(frozen=True)
class Group:
    """Files that may be equal, and entries of such files that were packed before."""

    sources: tuple[Source, ...]
    known: tuple[Entry, ...]


@dataclass
class PackRun:
    """The state of one run: what is wanted, what is done, what went wrong."""

    staging: Staging
    scan: Scan
    plan: CodecPlan
    options: PackOptions
    settings: Mapping[str, Any]
    shard_bytes: int = SHARD_BYTES
    entries: dict[str, Entry] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    resumed: int = 0  # entries taken over from the run before
    _sealed: list[SealedShard] = field(default_factory=list)
    _adapters: dict[str, RecordRef] = field(default_factory=dict)
    _token: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __post_init__(self) -> None:
        self._wanted = {source.path: source for source in self.scan.sources}
        self._sink = ShardSink(self.staging.data, self.shard_bytes)
        self.problems.extend(self.scan.problems)
        self.notes.extend(self.scan.notes)

    # -- taking up -------------------------------------------------------------------------------------------

    def take_up(self) -> None:
        """Accept everything that an earlier run left whole. Raises EnvironmentFailure."""
        found = recover_shards(self.staging.shards())
        self.notes.extend(found.notes)
        self._sealed.extend(found.sealed)
        self._adapters.update(found.adapters)
        learned = any(entry.models() for entry in found.entries.values())
        digests = [*found.adapters, *(self.plan.model_files() if learned else ())]
        for path, short in found.entries.items():
            entry, source = with_whole_digests(short, digests), self._wanted.get(path)
            if source is not None and _unchanged(source, entry):
                self.entries[path] = replace(entry, mode=source.mode)
                self.resumed += 1
                if entry.problem is not None:
                    self.problems.append(Problem(source.file, *entry.problem, kept=True))

    def groups(self) -> list[Group]:
        """The files still to be packed, candidates for equality together."""
        files = [source for source in self.scan.sources if source.kind == "file"]
        result = []
        for group in group_candidates(files):
            todo = tuple(source for source in group if source.path not in self.entries)
            if todo:
                known = (self.entries.get(source.path) for source in group)
                result.append(Group(todo, tuple(entry for entry in known if entry is not None)))
        return result

    def job(self, threads: int | None) -> PackJob:
        """What workers need to know."""
        return PackJob(
            self._token,
            self.staging.data,
            self.staging.stop_file,
            self.plan,
            self.options,
            threads,
            self.shard_bytes,
        )

    # -- what this process writes itself ---------------------------------------------------------------------

    def add_adapters(self, payloads: Mapping[str, bytes]) -> None:
        """Write the collection's adapters (digest to payload), unless they are there already."""
        for digest, payload in payloads.items():
            if digest not in self._adapters:
                self._adapters[digest] = self._sink.append(RecordType.ADAPTER, payload, digest)

    def add_plain(self) -> None:
        """Write folders and symbolic links."""
        todo = [s for s in self.scan.sources if s.kind != "file" and s.path not in self.entries]
        for entry in write_plain(self._sink, todo):
            self.entries[entry.path] = entry

    # -- results ---------------------------------------------------------------------------------------------

    def accept(self, result: BatchResult) -> None:
        """Take the results of a batch; the first entry of a path counts."""
        self._sealed.extend(result.sealed)
        for entry in result.entries:
            self.entries.setdefault(entry.path, entry)
        told = {(problem.path, problem.code) for problem in self.problems}
        self.problems.extend(p for p in result.problems if (p.path, p.code) not in told)

    def accept_sealed(self, sealed: tuple[SealedShard, ...]) -> None:
        """Note shards that workers sealed at the end."""
        self._sealed.extend(sealed)

    def seal_own(self) -> None:
        """Seal the shard of this process."""
        self._sink.seal()
        self._sealed.extend(self._sink.take_sealed())

    def abandon_own(self) -> None:
        """Close the shard of this process unsealed; the next run takes it up."""
        self._sink.abandon()

    def finish(self) -> Finished:
        """Seal what is open, take what dead workers left, and make the archive. Raises EnvironmentFailure."""
        self._adopt_orphans()
        self.seal_own()
        return finish(
            self.staging,
            self.entries.values(),
            adapters=self._adapters,
            plan=self.plan,
            sealed=self._sealed,
            settings=self.settings,
        )

    def _adopt_orphans(self) -> None:
        """Seal the shards of workers that died, or remove those of which nothing counts."""
        own = self._sink.partial
        for path in list(self.staging.shards()):
            if not path.name.endswith(PARTIAL_SUFFIX) or path == own:
                continue
            found = recover_shards([path])
            self.notes.extend(found.notes)
            name = path.name.removesuffix(PARTIAL_SUFFIX)
            sealed = path.with_name(name)
            if any(name in part.shards for entry in self.entries.values() for part in entry.parts):
                self._sealed.extend(found.sealed)
            elif sealed.exists():
                for entry in found.entries.values():  # an empty file's only record may be here
                    if not entry.parts and self.entries.get(entry.path) == entry:
                        self._sink.write(entry)
                sealed.unlink()


def _unchanged(source: Source, entry: Entry) -> bool:
    if source.kind != entry.kind or source.mtime_ns != entry.mtime_ns:
        return False
    if source.kind == "symlink":
        return source.target == entry.target
    return source.kind == "directory" or source.size == entry.size


def run_settings(
    sources: tuple[str, ...], plan: CodecPlan, options: PackOptions, selection: Selection
) -> dict[str, Any]:
    """What makes two commands the same run."""
    paths = [os.fsencode(os.path.abspath(source)) for source in sources]
    return {
        "sources": [path.decode("utf-8", "backslashreplace") for path in paths],
        "include": list(selection.include),
        "exclude": list(selection.exclude),
        "fidelity": options.fidelity,
        **plan.settings(),
    }
