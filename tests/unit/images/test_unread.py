"""Image files that are recognised but not taken apart: their reasons, and JPEG files that surely end too early."""

from __future__ import annotations

import imagecodecs
import numpy as np
import pytest

from callic_archive.archive.pack_one import pack_one
from callic_archive.errors import TruncatedSource
from callic_archive.images.unread import check_jpeg_ends, reason_of
from tests.doubles import DeflateCodec

IMAGE = np.random.default_rng(0).integers(0, 256, (40, 56), np.uint8)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x00\x00\x00\x0cjP  \r\n\x87\nrest", "no-reader"),
        (b"\xff\x4f\xff\x51rest", "no-reader"),
        (b"\x00\x00\x00\x0cJXL \r\n\x87\nrest", "no-reader"),
        (b"\xff\x0arest", "no-reader"),
        (b"RIFF\x10\0\0\0WEBPVP8L", "no-reader"),
        (b"\0\0\0\x1cftypheic", "no-reader"),
        (b"\0\0\0\x1cftypavif", "no-reader"),
        (b"\xff\xd8\xff\xe0rest", "jpeg-kind"),
        (b"\0\0\0\x1cftypisom", None),  # a film
        (b"RIFF\x10\0\0\0WAVEfmt ", None),
        (b"plain text", None),
        (b"", None),
    ],
)
def test_the_first_bytes_say_why(data: bytes, reason: str | None) -> None:
    assert reason_of(data) == reason


@pytest.mark.parametrize("code", [imagecodecs.jpeg8_encode(IMAGE), imagecodecs.jpegls_encode(IMAGE)])
def test_only_coded_data_without_an_end_is_surely_cut(code: bytes) -> None:
    check_jpeg_ends(code)
    check_jpeg_ends(code + b"behind")
    check_jpeg_ends(code[:20])  # its header may be anything
    check_jpeg_ends(b"\x89PNG" + code)
    with pytest.raises(TruncatedSource):
        check_jpeg_ends(code[:-2])
    with pytest.raises(TruncatedSource):
        check_jpeg_ends(code[: len(code) * 2 // 3])


def test_packing_names_them_and_keeps_every_byte() -> None:
    code = imagecodecs.jpeg8_encode(IMAGE)
    arithmetic = code.replace(b"\xff\xc0", b"\xff\xc9", 1)  # said to be, and so read by nobody
    cut = pack_one(code[: len(code) * 2 // 3], codec=DeflateCodec)
    assert isinstance(cut.failure, TruncatedSource)
    assert cut.reason is None
    kept = pack_one(arithmetic, codec=DeflateCodec)
    assert (kept.failure, kept.reason, kept.method) == (None, "jpeg-kind", "stored")
    whole = pack_one(code, codec=DeflateCodec)
    assert (whole.failure, whole.reason) == (None, None)
