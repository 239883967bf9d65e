"""TAR: image files in it are taken apart where they lie, and the archive comes back byte for byte."""

from __future__ import annotations

import io
import os
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import tifffile

from callic_archive.images.reasons import NotTaken
from callic_archive.images.sample_types import types_of
from callic_archive.images.source import Limits, Parsed, examine, rebuild, sniff
from tests.trees import grainy

GRAY, WIDE = grainy(60, 80), grainy(40, 50).astype(np.int16) * 9 - 300


def tiff(image: np.ndarray) -> bytes:
    out = io.BytesIO()
    tifffile.imwrite(out, image)
    return out.getvalue()


def npy(image: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, image)
    return out.getvalue()


def tar(files: dict[str, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def exact(data: bytes) -> Parsed:
    parsed = examine(data)
    assert isinstance(parsed, Parsed)
    assert (parsed.format, parsed.fidelity) == ("tar", "bytes")
    out = io.BytesIO()
    rebuild(parsed.format, parsed.recipe, parsed.surround, parsed.images, out)
    assert out.getvalue() == data
    return parsed


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_that_are_images(form: int) -> None:
    files = {
        "notes.txt": b"words " * 400,
        "scans/a.tif": tiff(GRAY),
        "\u00fc" * 30 + "/deep" * 12 + ".npy": npy(WIDE),
        "empty": b"",
        "broken.tif": tiff(GRAY)[:300],
    }
    parsed = exact(tar(files, form))
    assert [image.tolist() for image in parsed.images] == [GRAY.tolist(), WIDE.tolist()]
    assert b"words words" in parsed.surround
    types = types_of(parsed.format, parsed.recipe, parsed.surround)
    assert types is not None
    assert [one[0].name for one in types] == ["u1", "i2"]


def test_as_tar_writes_it(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.npy").write_bytes(npy(GRAY))
    os.link(tmp_path / "in" / "a.npy", tmp_path / "in" / "again.npy")
    os.symlink("a.npy", tmp_path / "in" / "link")
    with (tmp_path / "in" / "holes").open("wb") as file:
        file.truncate(1 << 20)
        file.write(b"x")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(tmp_path / "in", "in")
    parsed = exact((tmp_path / "a.tar").read_bytes() + bytes(10240) + b"behind")
    assert [image.tolist() for image in parsed.images] == [GRAY.tolist()]


def test_what_is_broken_leaves_what_comes_before_it() -> None:
    whole = tar({"a.npy": npy(GRAY), "b.npy": npy(WIDE), "c.npy": npy(GRAY)})
    cut = exact(whole[: whole.rindex(npy(WIDE)) + 1000])
    assert [image.tolist() for image in cut.images] == [GRAY.tolist()]
    spoilt = bytearray(whole)
    spoilt[whole.index(b"b.npy")] ^= 1  # its checksum is wrong now
    assert len(exact(bytes(spoilt)).images) == 1


def test_archives_without_images_and_within_archives_are_left() -> None:
    inner = tar({"a.npy": npy(GRAY)})
    for files in ({"words": b"x" * 900}, {"inner.tar": inner}, {}):
        data = tar(files)
        found = examine(data)
        assert sniff(data) == ("tar" if files else None)
        assert found is None or (isinstance(found, NotTaken) and found.reason == "members")


def test_of_more_than_lies_in_memory_the_first_are_taken() -> None:
    data = tar({"a.npy": npy(GRAY), "b.npy": npy(WIDE), "c.npy": npy(GRAY)})
    found = examine(data, limits=Limits(max_member_bytes=GRAY.nbytes + 9))
    assert isinstance(found, Parsed)
    assert len(found.images) == 1


def with_size(data: bytes, at: int, field: bytes) -> bytes:
    """The header at ``at`` with another size, and the checksum that fits."""
    header = bytearray(data[at : at + 512])
    header[124:136] = field
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return data[:at] + bytes(header) + data[at + 512 :]


@pytest.mark.parametrize(
    "field", [b"\xff" * 10 + b"\xfe\0", b"\x80" + b"\xff" * 11, b"-0000001000\0", b"77777777777\0", b"words\0words\0"]
)
def test_sizes_that_cannot_be_end_the_archive(field: bytes) -> None:
    data = tar({"a.npy": npy(GRAY), "b.npy": npy(WIDE)})
    at = data.index(b"b.npy")
    parsed = exact(with_size(data, at, field))
    assert [image.tolist() for image in parsed.images] == [GRAY.tolist()]


def test_archives_behind_each_other() -> None:
    data = tar({"a.npy": npy(GRAY)}) + tar({"b.npy": npy(WIDE)})
    assert [image.tolist() for image in exact(data).images] == [GRAY.tolist(), WIDE.tolist()]


def test_a_size_in_a_pax_header_and_a_large_one_in_binary() -> None:
    data = tar({"a.npy": npy(GRAY), "b.npy": npy(WIDE)}, tarfile.GNU_FORMAT)
    length = len(npy(GRAY))
    binary = with_size(data, 0, b"\x80" + length.to_bytes(11, "big"))
    assert len(exact(binary).images) == 2
    record = b"size=%d\n" % length
    record = b"%d %s" % (len(record) + 3, record)
    head = with_size(data, 0, b"%011o\0" % len(record))[:512]
    head = bytearray(head)
    head[156:157] = b"x"
    told = bytes(with_size(bytes(head), 0, b"%011o\0" % len(record))) + record.ljust(512, b"\0")
    assert len(exact(told + with_size(data, 0, b"%011o\0" % 0)).images) == 2


def test_many_global_headers_take_no_memory_of_their_own() -> None:
    out = io.BytesIO()
    words = {f"key{n}": "v" for n in range(5000)}
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT, pax_headers=words) as archive:
        for n in range(500):
            archive.addfile(tarfile.TarInfo(f"empty{n}"))
        info = tarfile.TarInfo("a.npy")
        info.size = len(npy(GRAY))
        archive.addfile(info, io.BytesIO(npy(GRAY)))
    tracemalloc.start()
    parsed = exact(out.getvalue())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(parsed.images) == 1
    assert peak < 8 << 20
