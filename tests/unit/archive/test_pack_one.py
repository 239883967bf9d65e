"""One file: what it becomes, and that nothing wrong with it stops anything."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from callic_archive.archive import pack_one as module
from callic_archive.archive import verbatim
from callic_archive.archive.candidates import learned
from callic_archive.archive.digests import content_sha256, same_image, sha256
from callic_archive.archive.packed import Packed, PackOptions
from callic_archive.archive.verbatim import expand, stored_pieces
from callic_archive.container.layout import RecordType
from callic_archive.errors import DeviceFailed, EnvironmentFailure, ModelError, NoSuchDevice
from callic_archive.images.source import parse, rebuild
from tests.doubles import DeflateCodec, DeflatePlan
from tests.streams import capricious
from tests.trees import smooth


def pack_one(data: bytes, **options: Any) -> Packed:
    """With the learned coding alone, so that it is the test's codec that is asked."""
    return module.pack_one(data, **{"options": PackOptions(coder=learned), **options})


def codec(**behaviour: float) -> Callable[[], DeflateCodec]:
    return lambda: DeflateCodec(DeflatePlan(**behaviour))  # type: ignore[arg-type]


def pgm(image: np.ndarray) -> bytes:
    return b"P5\n%d %d\n255\n" % (image.shape[1], image.shape[0]) + image.tobytes()


def png(image: np.ndarray, level: int = 6) -> bytes:
    """A gray PNG without filters, compressed in a way that no zlib level alone repeats: two flushed halves."""
    rows = b"".join(b"\0" + row.tobytes() for row in image)
    engine = zlib.compressobj(level)
    half = len(rows) // 3
    idat = (
        engine.compress(rows[:half])
        + engine.flush(zlib.Z_FULL_FLUSH)
        + engine.compress(rows[half:])
        + engine.flush()
    )

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", image.shape[1], image.shape[0], 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", idat) + chunk(b"IEND", b"")


NOISE = np.random.default_rng(1).bytes(4000)
IMAGE = pgm(smooth(64, 80))


def test_an_uncompressed_image_comes_back_byte_for_byte() -> None:
    packed = pack_one(IMAGE, codec=codec())
    pieces = list(packed.pieces)
    assert (packed.method, packed.fidelity, packed.format) == ("image", "bytes", "pnm")
    assert packed.failure is None
    assert packed.sha256 == sha256(IMAGE)
    surround = b"".join(expand(p.payload, p.coding, p.size) for p in pieces if p.stream is None)
    images = [codec()().decode(p.payload) for p in pieces if p.stream is not None]
    out = io.BytesIO()
    rebuild("pnm", packed.recipe, surround, images, out)
    assert out.getvalue() == IMAGE
    assert packed.content_sha256 == content_sha256("pnm", packed.recipe, surround, images)
    assert sum(len(p.payload) for p in pieces) < len(IMAGE) // 2


def test_what_is_no_image_is_stored() -> None:
    packed = pack_one(b"words " * 500, codec=codec())
    (piece,) = packed.pieces
    assert (packed.method, packed.fidelity, packed.failure, packed.reason) == ("stored", "bytes", None, None)
    assert (piece.type, piece.coding, piece.size) == (RecordType.STORED, "zstd", 3000)
    assert expand(piece.payload, "zstd", 3000) == b"words " * 500


def test_what_cannot_shrink_is_stored_raw() -> None:
    (piece,) = pack_one(NOISE, codec=codec()).pieces
    assert (piece.coding, piece.payload) == ("raw", NOISE)


def test_an_empty_file_has_no_pieces() -> None:
    packed = pack_one(b"", codec=codec())
    assert (packed.method, packed.size, list(packed.pieces)) == ("none", 0, [])


def test_an_image_that_the_codec_does_not_shrink_is_stored() -> None:
    rng = np.random.default_rng(3)
    packed = pack_one(pgm(rng.integers(0, 256, (40, 40), np.uint8)), codec=codec())
    assert (packed.method, packed.failure, packed.reason) == ("stored", None, "not-smaller")


def test_what_is_understood_and_not_taken_has_a_reason() -> None:
    out = io.BytesIO()
    np.save(out, np.arange(5000))
    packed = pack_one(out.getvalue(), codec=codec())
    assert (packed.method, packed.failure, packed.reason) == ("stored", None, "axes")
    assert pack_one(out.getvalue(), codec=None).reason is None  # it was not looked into


def test_floats_are_smaller_than_the_file_in_zstandard() -> None:
    """Smooth floats, and floats that hold small integers, gain over the file as it is."""
    rng = np.random.default_rng(0)
    field = rng.normal(0, 1, (200, 220)).cumsum(axis=0).cumsum(axis=1)
    for array in (field.astype("f4"), field, np.round(field).astype("f4"), field.astype("f2"), np.round(field * 8) / 8):
        out = io.BytesIO()
        np.save(out, array)
        packed = pack_one(out.getvalue(), codec=codec(), options=PackOptions())
        assert (packed.method, packed.fidelity) == ("image", "bytes")
        stored = sum(len(piece.payload) for piece in stored_pieces(out.getvalue(), level=19))
        assert sum(len(piece.payload) for piece in packed.pieces) < 0.9 * stored


def test_the_codec_is_not_asked_for_when_there_is_no_image() -> None:
    def no_codec() -> DeflateCodec:
        raise AssertionError("the codec was opened for a text")

    assert pack_one(b"words" * 100, codec=no_codec).method == "stored"


def test_a_png_of_flushed_halves_comes_back_byte_for_byte() -> None:
    data = png(smooth(90, 70), level=1)
    packed = pack_one(data, codec=codec(), options=PackOptions(fidelity="bytes", coder=learned))
    assert (packed.method, packed.fidelity, packed.format) == ("image", "bytes", "png")
    assert packed.recipe["differences"] > 0
    pieces = list(packed.pieces)
    surround = b"".join(expand(p.payload, p.coding, p.size) for p in pieces if p.stream is None)
    images = [codec()().decode(p.payload) for p in pieces if p.stream is not None]
    out = io.BytesIO()
    rebuild("png", packed.recipe, surround, images, out)
    assert out.getvalue() == data


def by_chance(image: np.ndarray) -> bytes:
    """A PNG whose stream costs so much to repeat that it cannot be worth it."""
    rows = b"".join(b"\0" + row.tobytes() for row in image)
    body = b"\x78\x9c" + capricious(rows, 2, 0) + zlib.adler32(rows).to_bytes(4, "big")
    plain = png(image)
    start, end = plain.index(b"IDAT") - 4, len(plain) - 12
    chunk = struct.pack(">I", len(body)) + b"IDAT" + body + struct.pack(">I", zlib.crc32(b"IDAT" + body))
    return plain[:start] + chunk + plain[end:]


def test_a_png_that_cannot_be_repeated_comes_back_as_content_or_is_stored() -> None:
    data = by_chance(np.zeros((600, 600), np.uint8))
    packed = pack_one(data, codec=codec())
    assert (packed.method, packed.fidelity, packed.format) == ("image", "content", "png")
    strict = pack_one(data, codec=codec(), options=PackOptions(fidelity="bytes", coder=learned))
    assert (strict.method, strict.fidelity, strict.failure) == ("stored", "bytes", None)
    assert strict.reason == "content-only"


def test_differences_that_cost_most_of_the_gain_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    data = png(smooth(90, 70), level=1)
    parsed = parse(data, "", PackOptions().limits)
    assert parsed is not None
    assert parsed.lighter is not None
    content = parsed.lighter()
    dear = replace(
        parsed,
        surround=bytes(content.surround) + NOISE[: len(data) // 2],
        recipe=parsed.recipe | {"differences": len(data) // 2},
    )
    monkeypatch.setattr(module, "examine", lambda view, *_: dear if bytes(view) == data else parse(view))
    monkeypatch.setattr(module, "prove_rebuild", lambda p, *_: p.fidelity)
    packed = pack_one(data, codec=codec())
    assert (packed.method, packed.fidelity) == ("image", "content")
    assert "differences" not in packed.recipe


@pytest.mark.parametrize("cut", [40, len(IMAGE) // 2, len(IMAGE) - 1])
def test_a_truncated_image_is_stored_and_reported(cut: int) -> None:
    packed = pack_one(IMAGE[:cut], codec=codec())
    assert packed.method == "stored"
    assert packed.failure is not None
    assert packed.failure.code.startswith("E1")
    assert packed.reason is None
    assert b"".join(expand(p.payload, p.coding, p.size) for p in packed.pieces) == IMAGE[:cut]


def test_a_codec_that_raises_costs_only_the_ratio() -> None:
    packed = pack_one(IMAGE, codec=codec(raises_on=0))
    assert packed.method == "stored"
    assert packed.failure is not None
    assert packed.failure.code == "E511"
    assert "ZeroDivisionError: a bug in the codec" in str(packed.failure)


def test_a_codec_that_lies_is_caught_before_anything_is_written() -> None:
    packed = pack_one(IMAGE, codec=codec(lies_on=0))
    assert packed.method == "stored"
    assert packed.failure is not None
    assert packed.failure.code == "E510"
    unproven = pack_one(IMAGE, codec=codec(lies_on=0), options=PackOptions(verify=False, coder=learned))
    assert unproven.method == "image"


def test_a_parser_that_raises_anything_costs_only_the_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RecursionError("too deep")

    monkeypatch.setattr(module, "examine", broken)
    packed = pack_one(IMAGE, codec=codec())
    assert packed.method == "stored"
    assert "RecursionError: too deep" in str(packed.failure)


def test_a_rebuild_that_gives_other_content_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(format: str, recipe: object, surround: bytes, images: object, out: io.BytesIO) -> None:
        out.write(pgm(smooth(64, 80, seed=9)))

    monkeypatch.setattr(module, "rebuild", wrong)
    packed = pack_one(IMAGE, codec=codec())
    assert packed.method == "stored"
    assert packed.failure is not None
    assert packed.failure.code == "E510"


def test_failures_of_the_machine_are_not_failures_of_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_device() -> DeflateCodec:
        raise NoSuchDevice("gone")

    def no_model() -> DeflateCodec:
        raise ModelError("the model is missing")

    with pytest.raises(NoSuchDevice):
        pack_one(IMAGE, codec=no_device)
    with pytest.raises(ModelError):
        pack_one(IMAGE, codec=no_model)

    class OutOfMemoryError(RuntimeError):
        """As torch.cuda.OutOfMemoryError."""

    def out_of_memory(self: DeflateCodec, image: object) -> bytes:
        raise OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(DeflateCodec, "encode", out_of_memory)
    with pytest.raises(DeviceFailed) as caught:
        pack_one(IMAGE, codec=codec())
    assert isinstance(caught.value, EnvironmentFailure)


def test_large_files_are_stored_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verbatim, "CHUNK", 1000)
    data = b"a" * 1500 + NOISE[:1000]
    pieces = list(stored_pieces(data))
    assert [(p.coding, p.size) for p in pieces] == [("zstd", 1000), ("zstd", 1000), ("raw", 500)]
    assert b"".join(expand(p.payload, p.coding, p.size) for p in pieces) == data


@pytest.mark.parametrize("size", [5, 7, 1 << 40])
def test_a_frame_that_promises_another_size_is_refused_before_allocation(size: int) -> None:
    (piece,) = stored_pieces(b"ab" * 3000)
    with pytest.raises(ValueError):
        expand(piece.payload, "zstd", size)
    with pytest.raises(ValueError):
        expand(b"123456", "raw", size)


def test_same_image_sees_every_difference() -> None:
    image = smooth(50, 60).astype(np.uint16)
    other = image.copy()
    assert same_image(image, other)
    other[49, 59] += 1
    assert not same_image(image, other)
    assert not same_image(image, image.astype(np.int16))
    assert not same_image(image, image[:, :59])


def test_the_content_digest_sees_every_part() -> None:
    image = smooth(8, 9)
    base = content_sha256("pnm", {"a": 1}, b"head", [image])
    changed = image.copy()
    changed[7, 8] ^= 1
    others = [
        content_sha256("bmp", {"a": 1}, b"head", [image]),
        content_sha256("pnm", {"a": 2}, b"head", [image]),
        content_sha256("pnm", {"a": 1}, b"heat", [image]),
        content_sha256("pnm", {"a": 1}, b"head", [changed]),
        content_sha256("pnm", {"a": 1}, b"head", [image.reshape(9, 8)]),
        content_sha256("pnm", {"a": 1}, b"head", [image, image]),
        content_sha256("pnm", {"a": 1}, b"head", [image.view(np.int8)]),
    ]
    assert base not in others
    assert len(set(others)) == len(others)
    assert content_sha256("pnm", {"a": 1}, b"head", [image.copy("F")]) == base
    wide = image.astype(np.uint16)
    assert content_sha256("x", {}, b"", [wide]) == content_sha256("x", {}, b"", [wide.astype(">u2")])
