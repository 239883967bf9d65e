"""An archive as a BagIt bag (RFC 8493, version 1.0) with SHA-256, so that archivists' own tools can check it.

Only what an archive needs: one payload manifest, one tag manifest, no ``fetch.txt``. Validation never raises
on a broken bag; it returns one ``Problem`` for each thing that is wrong, with the file it concerns.
"""

from __future__ import annotations

import datetime
import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from callic_archive import errors
from callic_archive.container import fs
from callic_archive.container.names import check_relative

DECLARATION = b"BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n"
PAYLOAD_MANIFEST = "manifest-sha256.txt"
TAG_MANIFEST = "tagmanifest-sha256.txt"
TAG_FILES = frozenset({"bagit.txt", "bag-info.txt", "manifest-sha256.txt", TAG_MANIFEST})
MAX_TAG_FILE = 256 << 20  # bytes; a manifest line takes some 100, so millions of payload files fit
_CHUNK = 4 << 20
_LINE = re.compile(r"([0-9a-fA-F]{64})[ \t]+(?:\*)?(.+)")
_ESCAPE = re.compile(r"%(0[AaDd]|25)")

OnFile = Callable[[str, int], None]  # (path in the bag, its size in bytes) after each file that was hashed


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: the code of its error class, the file in the bag, and a sentence."""

    code: str
    path: str
    detail: str


def encode_path(path: str) -> str:
    """A path as manifests hold it: CR, LF and % percent-encoded, and nothing else."""
    return path.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def decode_path(text: str) -> str:
    """The inverse of ``encode_path``; other percent signs stand for themselves, as other tools write them."""
    return _ESCAPE.sub(lambda found: chr(int(found[1], 16)), text)


# -- writing -----------------------------------------------------------------------------------------------


def _manifest(hashes: Mapping[str, str]) -> bytes:
    lines = []
    for path in sorted(hashes):
        if not re.fullmatch("[0-9a-f]{64}", hashes[path]):
            raise ValueError(f"{hashes[path]!r} is no SHA-256 in lower-case hexadecimal")
        lines.append(f"{hashes[path]}  {encode_path(path)}\n")
    return "".join(lines).encode("utf-8")


def write_bag(
    root: Path, info: Mapping[str, str], payload: Mapping[str, str], *, date: datetime.date | None = None
) -> None:
    """Write the tag files of the bag at ``root`` around a payload that is already there and durable.

    ``payload`` maps each payload file's path below ``root`` ("data/...") to its SHA-256 in hexadecimal.
    ``info`` are further lines of bag-info.txt; Payload-Oxum and Bagging-Date (``date``, default today in
    UTC) are added. Each file is written atomically, the tag manifest last: until then ``validate_bag`` finds
    a broken bag, and calling this again mends it. Raises UnsafePath (E440), BagMalformed (E430) for labels
    or values that cannot be written, BagFileMissing (E431), OutOfSpace and WriteFailure (E610, E611).
    """
    octets = 0
    for path in payload:
        if check_relative(path)[0] != "data":
            raise errors.UnsafePath(f"the payload file {path!r} does not lie below data/")
        try:
            found = os.stat(root / path, follow_symlinks=False)
        except OSError as error:
            raise errors.BagFileMissing(f"the payload file {path!r} is not there") from error
        if not stat.S_ISREG(found.st_mode):
            raise errors.BagFileMissing(f"the payload file {path!r} is no regular file")
        octets += found.st_size
    day = date or datetime.datetime.now(datetime.UTC).date()
    lines = {**info, "Bagging-Date": day.isoformat(), "Payload-Oxum": f"{octets}.{len(payload)}"}
    for label, value in lines.items():
        if not label or label != label.strip() or ":" in label or not (label + value).isprintable():
            raise errors.BagMalformed(f"the bag-info line {label!r}: {value!r} cannot be written")
    files = {
        "bagit.txt": DECLARATION,
        "bag-info.txt": "".join(f"{label}: {value}\n" for label, value in lines.items()).encode("utf-8"),
        PAYLOAD_MANIFEST: _manifest(payload),
    }
    files[TAG_MANIFEST] = _manifest({name: hashlib.sha256(data).hexdigest() for name, data in files.items()})
    for name, data in files.items():
        fs.atomic_write(root / name, data)


# -- validating --------------------------------------------------------------------------------------------


class _Checker:
    def __init__(self, root: Path, on_file: OnFile | None) -> None:
        self.root = root
        self.problems: list[Problem] = []
        self._on_file = on_file

    def note(self, error: type[errors.CallicError], path: str, detail: str) -> None:
        self.problems.append(Problem(error.code, path, detail))

    def tag_file(self, name: str) -> str | None:
        """The text of a tag file; None after noting why there is none."""
        try:
            found = os.stat(self.root / name, follow_symlinks=False)
            if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_TAG_FILE:
                self.note(errors.BagMalformed, name, f"no regular file of at most {MAX_TAG_FILE} bytes")
                return None
            return (self.root / name).read_bytes().decode("utf-8")
        except FileNotFoundError:
            self.note(errors.BagMalformed, name, "the tag file is missing")
        except UnicodeDecodeError:
            self.note(errors.BagMalformed, name, "the tag file is not UTF-8")
        except OSError as error:
            self.note(errors.ReadFailure, name, f"cannot be read: {error.strerror or error}")
        return None

    def manifest(self, name: str) -> dict[str, str] | None:
        """path -> hash of a manifest; None when there is no such file."""
        text = self.tag_file(name)
        if text is None:
            return None
        hashes: dict[str, str] = {}
        for number, line in enumerate(re.split(r"\r\n|\n|\r", text), 1):
            if not line:
                continue
            found = _LINE.fullmatch(line)
            if found is None:
                self.note(errors.BagMalformed, name, f"line {number} is not a SHA-256 and a path")
                continue
            path = decode_path(found[2]).removeprefix("./")
            try:
                check_relative(path)
            except errors.UnsafePath as error:
                self.note(errors.UnsafePath, name, f"line {number}: {error}")
                continue
            if path in hashes:
                self.note(errors.BagMalformed, name, f"line {number} lists {path!r} a second time")
                continue
            hashes[path] = found[1].lower()
        return hashes

    def declaration(self) -> None:
        text = self.tag_file("bagit.txt")
        wanted = r"BagIt-Version: (0\.9[3-7]|1\.0)(\r\n|\n|\r)Tag-File-Character-Encoding: UTF-8(\r\n|\n|\r)?"
        if text is not None and not re.fullmatch(wanted, text):
            self.note(errors.BagMalformed, "bagit.txt", "not the declaration of a BagIt bag in UTF-8")
        if os.path.lexists(self.root / "fetch.txt"):
            self.note(errors.BagMalformed, "fetch.txt", "parts of the bag would have to be fetched first")

    def oxum(self) -> tuple[int, int] | None:
        text = self.tag_file("bag-info.txt")
        if text is None:
            return None
        found = re.findall(r"^Payload-Oxum[ \t]*:[ \t]*(.*?)[ \t]*$", text, re.MULTILINE | re.IGNORECASE)
        if len(found) != 1 or not re.fullmatch(r"[0-9]{1,18}\.[0-9]{1,18}", found[0].rstrip("\r")):
            self.note(errors.BagMalformed, "bag-info.txt", "not exactly one Payload-Oxum BYTES.FILES")
            return None
        octets, count = found[0].rstrip("\r").split(".")
        return int(octets), int(count)

    def payload(self) -> Iterator[tuple[str, os.stat_result]]:
        """All files below data/; anything that is neither file nor directory is noted."""
        pending = ["data"]
        while pending:
            directory = pending.pop()
            try:
                with os.scandir(self.root / directory) as listing:
                    found = sorted(listing, key=lambda item: item.name)
            except OSError as error:
                self.note(errors.BagMalformed, directory, f"cannot be listed: {error.strerror or error}")
                continue
            for item in found:
                path = f"{directory}/{item.name}"
                if item.is_dir(follow_symlinks=False):
                    pending.append(path)
                elif item.is_file(follow_symlinks=False):
                    yield path, item.stat(follow_symlinks=False)
                else:
                    self.note(errors.BagMalformed, path, "neither a regular file nor a directory")

    def check_hash(self, path: str, wanted: str) -> None:
        state = hashlib.sha256()
        size = 0
        try:
            fd = os.open(self.root / path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
            with os.fdopen(fd, "rb", buffering=0) as file:
                while block := file.read(_CHUNK):
                    state.update(block)
                    size += len(block)
        except FileNotFoundError:
            self.note(errors.BagFileMissing, path, "listed in the manifest, but not there")
            return
        except OSError as error:
            self.note(errors.ReadFailure, path, f"cannot be read: {error.strerror or error}")
            return
        if state.hexdigest() != wanted:
            self.note(errors.BagHashMismatch, path, f"SHA-256 is {state.hexdigest()} instead of {wanted}")
        if self._on_file is not None:
            self._on_file(path, size)


def validate_bag(
    root: Path,
    quick: bool = False,
    *,
    on_file: OnFile | None = None,
    wanted: Callable[[str], bool] | None = None,
) -> list[Problem]:
    """Everything that is wrong with the bag at ``root``; an empty list means valid.

    ``quick`` checks that the listed files and no others are there, that Payload-Oxum holds, and the (small)
    tag files by their hashes; else each payload file's SHA-256 too, or of those that are ``wanted``. Codes:
    E430 to E434, E440, and E612 where a file cannot be read. Never raises on a broken bag.
    """
    checker = _Checker(root, on_file)
    checker.declaration()
    oxum = checker.oxum()
    tags = checker.manifest(TAG_MANIFEST)
    for name, digest in sorted((tags or {}).items()):
        if name.startswith("data/"):
            checker.note(errors.BagMalformed, TAG_MANIFEST, f"lists the payload file {name!r}")
        else:
            checker.check_hash(name, digest)
    for name in ("bagit.txt", "bag-info.txt", PAYLOAD_MANIFEST):
        if tags is not None and name not in tags:
            checker.note(errors.BagMalformed, TAG_MANIFEST, f"does not list {name}")
    listed = checker.manifest(PAYLOAD_MANIFEST)
    there = dict(checker.payload())
    if oxum is not None:
        octets = sum(found.st_size for found in there.values())
        if (octets, len(there)) != oxum:
            detail = f"data/ has {octets} bytes in {len(there)} files, not {oxum[0]} in {oxum[1]}"
            checker.note(errors.BagSizeMismatch, "data", detail)
    if listed is None:
        return checker.problems
    for path in sorted(there.keys() - listed.keys()):
        checker.note(errors.BagFileUnlisted, path, "there, but not listed in the manifest")
    for path in sorted(listed):
        if not path.startswith("data/"):
            checker.note(errors.BagMalformed, PAYLOAD_MANIFEST, f"lists {path!r}, which is no payload file")
        elif path not in there:
            checker.note(errors.BagFileMissing, path, "listed in the manifest, but not there")
        elif not quick and (wanted is None or wanted(path)):
            checker.check_hash(path, listed[path])
    return checker.problems
