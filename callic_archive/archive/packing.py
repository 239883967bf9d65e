"""One pack run from scan to finished archive, without a word about who executes its batches."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from callic_archive.archive.band_sets import band_candidates
from callic_archive.archive.codecs import CodecPlan
from callic_archive.archive.collection import all_fitted
from callic_archive.archive.commit import Finished, finish
from callic_archive.archive.comparing import same_bytes
from callic_archive.archive.content import look, opened
from callic_archive.archive.cut_files import CutFiles
from callic_archive.archive.duplicates import group_candidates
from callic_archive.archive.entries import Entry, relocated, with_whole_digests
from callic_archive.archive.pack_pieces import remove_copy
from callic_archive.archive.packed import PackOptions
from callic_archive.archive.packer import BatchResult, PackJob, write_plain
from callic_archive.archive.recovery import Recovered, recover_shards
from callic_archive.archive.scan import Problem, Scan, Selection, Source
from callic_archive.archive.shard_sink import SHARD_BYTES, ShardSink
from callic_archive.archive.staging import Staging
from callic_archive.archive.worth import Verdict
from callic_archive.container.layout import PARTIAL_SUFFIX, RecordRef, RecordType
from callic_archive.container.writer import SealedShard

Key = TypeVar("Key")

_CLOCKS_APART = 60 * 10**9  # ns that file systems of sources and of the archive may differ by


@dataclass(frozen=True)
class Group:
    """Files that may be equal, and entries of such files that were packed before; or files that may be bands."""

    sources: tuple[Source, ...]
    known: tuple[Entry, ...]
    bands: bool = False  # the sources may be bands of one scene


@dataclass
class PackRun:
    """The state of one run: what is wanted, what is done, what went wrong."""

    staging: Staging
    scan: Scan
    plan: CodecPlan
    options: PackOptions
    settings: Mapping[str, Any]
    shard_bytes: int = SHARD_BYTES
    models_inside: bool = True  # False: the archive names the models that it needs and does not carry them
    entries: dict[str, Entry] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    resumed: int = 0  # entries taken over from the run before
    _sealed: list[SealedShard] = field(default_factory=list)
    _adapters: dict[str, RecordRef] = field(default_factory=dict)
    verdict: Verdict = field(default_factory=Verdict)  # on models that do not pay
    fitted: tuple[Path, ...] = ()  # files of models that were fitted to the collection
    cuts: CutFiles = field(default_factory=CutFiles)  # large files of which pieces are still to be packed
    _token: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __post_init__(self) -> None:
        self._wanted = {source.path: source for source in self.scan.sources}
        self._promoted: set[str] = set()  # names that stand for a file as its first one could not
        self.finished: list[tuple[Source, Entry]] = []  # large files, for whoever tells of progress to take
        self._sink = ShardSink(self.staging.data, self.shard_bytes)
        self.problems.extend(self.scan.problems)
        self._told = {(problem.path, problem.code) for problem in self.problems}
        self.notes.extend(self.scan.notes)

    # -- taking up -------------------------------------------------------------------------------------------

    def take_up(self) -> None:
        """Accept everything that an earlier run left whole. Raises EnvironmentFailure."""
        found = recover_shards(self.staging.shards())
        self.notes.extend(found.notes)
        self._sealed.extend(found.sealed)
        self._adapters.update(found.adapters)
        self.cuts.known = {
            path: list(self._whole_digests(dict(enumerate(shares)), found).values())
            for path, shares in found.shares.items()
        }
        for path, entry in self._whole_digests(found.entries, found).items():
            source = self._wanted.get(path)
            if source is None or source.link is not None or entry.link is not None:
                continue  # further names of a file cost nothing; they are written again
            if _unchanged(source, entry, self.staging.began_ns):
                self.entries[path] = replace(entry, mode=source.mode)
                self.resumed += 1
                if entry.problem is not None:
                    self.problems.append(Problem(source.file, *entry.problem, kept=True))

    def _whole_digests(self, entries: Mapping[Key, Entry], found: Recovered) -> dict[Key, Entry]:
        """Entries of shards, with the whole digests of what ENTRY records name by its first digits."""
        learned = any(entry.models() for entry in entries.values())
        fitted = all_fitted(self.staging) if learned else []
        digests = [*self._adapters, *found.adapters, *(self.plan.model_files() if learned else ()), *fitted]
        return {path: with_whole_digests(entry, digests) for path, entry in entries.items()}

    def groups(self) -> list[Group]:
        """The files still to be packed, candidates for equality together, and files that may be bands of one scene."""
        files = [source for source in self.scan.sources if source.kind == "file" and source.link is None]
        result = []
        for group in group_candidates(files):
            todo = tuple(source for source in group if source.path not in self.entries)
            if todo:
                known = (self.entries.get(source.path) for source in group)
                result.append(Group(todo, tuple(entry for entry in known if entry is not None)))
        return self._with_bands(result) if self.options.bands else result

    @staticmethod
    def _with_bands(groups: list[Group]) -> list[Group]:
        """The same files; of those that are like no other file, the ones that may be bands of one scene together."""
        alone = {group.sources[0].path: group for group in groups if len(group.sources) == 1 and not group.known}
        sets = band_candidates(group.sources[0] for group in alone.values())
        first = {some[0].path: some for some in sets}
        inside = {source.path for some in sets for source in some}
        result = []
        for group in groups:
            path = group.sources[0].path
            if path in first:
                result.append(Group(tuple(first[path]), (), bands=True))
            elif path not in inside:
                result.append(group)
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

    def add_links(self) -> list[Group]:
        """Write further names of packed files; what must be packed first, as no name of it could be yet.

        Call it, pack what it gives, and call it again until it gives nothing.
        """
        waiting: dict[str, list[Source]] = defaultdict(list)
        for source in self.scan.sources:
            if source.link is not None and source.path not in self.entries:
                waiting[source.link].append(source)
        again: list[Group] = []
        changed: dict[str, Source] = {}
        for leader, names in waiting.items():
            entry = self.entries.get(leader)
            if entry is not None and _still(self._wanted[leader], entry):
                for source in names:
                    if _still(source, entry):
                        row = replace(entry, path=source.path, link=leader)
                        self.entries[source.path] = self._sink.write(row)
                names = [source for source in names if source.path not in self.entries]
            if names:
                again.append(self._promote(names, changed))
        if changed:
            self._wanted |= changed
            self.scan.sources = [changed.get(source.path, source) for source in self.scan.sources]
        return again

    def _promote(self, names: list[Source], changed: dict[str, Source]) -> Group:
        """Let the first of several names stand for the file; each for itself where that did not help before."""
        first = names[0].path
        alone = names[0].link in self._promoted
        self._promoted.add(first)
        for source in names:
            changed[source.path] = replace(source, link=None if alone or source.path == first else first)
        return Group(tuple(s for s in (changed[n.path] for n in names) if s.link is None), ())

    # -- results ---------------------------------------------------------------------------------------------

    def accept(self, result: BatchResult) -> None:
        """Take the results of a batch; the first entry of a path counts."""
        self._sealed.extend(result.sealed)
        for entry in result.entries:
            self.entries.setdefault(entry.path, entry)
        for problem in result.problems:
            self._tell(problem)
        for cut in result.cuts:
            twin = next((e for e in self.entries.values() if e.sha256 == cut.entry.sha256), None)
            if twin is not None and twin.method == "pieces":
                remove_copy(cut.copy)
                self._complete(cut.source, relocated(cut.entry, twin))
            elif self.cuts.begin(cut, self.plan):
                self.add_adapters(cut.adapters)
        for share in result.shares:
            self.cuts.add(share)
        for source, entry in self.cuts.completed():
            self._complete(source, entry)

    def _complete(self, source: Source, entry: Entry) -> None:
        """Write the entry of a file whose pieces are all there."""
        if entry.problem is not None:
            self._tell(Problem(source.file, *entry.problem, kept=True))
        self.entries.setdefault(entry.path, self._sink.write(entry))
        self.finished.append((source, self.entries[entry.path]))

    def _tell(self, problem: Problem) -> None:
        if (problem.path, problem.code) not in self._told:
            self._told.add((problem.path, problem.code))
            self.problems.append(problem)

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
            models_inside=self.models_inside,
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
                # of an empty file or a copy only this may be here
                for entry in self._whole_digests(found.entries, found).values():
                    if self.entries.get(entry.path) == entry:
                        self._sink.write(entry)
                sealed.unlink()


def _still(source: Source, entry: Entry) -> bool:
    """Whether a name of a file with several still is the file that was packed."""
    try:
        info = look(source.file)
    except OSError:
        return False
    same = (info.st_dev, info.st_ino) == source.identity
    return same and (info.st_size, info.st_mtime_ns) == (entry.size, entry.mtime_ns)


def _unchanged(source: Source, entry: Entry, began_ns: int) -> bool:
    """Whether an entry of a run that began then still is its source: same time and size, and, where anything of
    the file changed since (``cp -p`` sets its time back), same bytes.
    """
    if source.kind != entry.kind or source.mtime_ns != entry.mtime_ns:
        return False
    if source.kind == "symlink":
        return source.target == entry.target
    if source.kind == "directory":
        return True
    if source.size != entry.size or source.ctime_ns < began_ns - _CLOCKS_APART:
        return source.size == entry.size
    try:
        with opened(source.file) as file:
            return same_bytes(entry, file)
    except OSError:
        return False  # it is read again, and then what is wrong with it is told


def run_settings(
    sources: tuple[str, ...],
    plan: CodecPlan,
    options: PackOptions,
    selection: Selection,
    *,
    listed: Sequence[str] = (),
    one_file_system: bool = False,
) -> dict[str, Any]:
    """What makes two commands the same run."""
    names = hashlib.sha256(b"\0".join(os.fsencode(name) for name in listed)).hexdigest() if listed else None
    paths = [os.fsencode(os.path.abspath(source)) for source in sources]
    return {
        "sources": [path.decode("utf-8", "backslashreplace") for path in paths],
        "include": list(selection.include),
        "exclude": list(selection.exclude),
        "listed": names,
        "one_file_system": one_file_system,
        "fidelity": options.fidelity,
        "bands": options.bands,
        **plan.settings(),
    }
