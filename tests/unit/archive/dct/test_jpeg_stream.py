"""JPEG streams by their coefficients come back byte for byte, or are not taken; hostile payloads are refused."""

from __future__ import annotations

import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard
from skimage import data

from callic_archive.archive.dct import jpeg_stream
from callic_archive.archive.dct.jpeg_frame import canonical, read_header
from callic_archive.container.layout import decode_varint, encode_varint
from callic_archive.images.jpeg_streams import find
from tests.jpegs import coefficients
from tests.slides import jpeg, picture, slide
from tests.trees import SHARED

EOI = b"\xff\xd9"
OPTIONS: list[dict[str, Any]] = [{}, {"optimize": True}, {"restart_marker_blocks": 5}, {"restart_marker_rows": 1}]


def both_ways(stream: bytes) -> bytes:
    """The payload, after it was seen to give the stream back."""
    payload = jpeg_stream.encode(stream)
    assert payload is not None
    assert payload.startswith(jpeg_stream.MAGIC)
    assert jpeg_stream.comes_back(stream)
    assert jpeg_stream.decode(payload, len(stream)) == stream
    return payload


def refused_or_back(stream: bytes) -> bool:
    """Whether a stream was taken; then it was seen to come back."""
    payload = jpeg_stream.encode(stream)
    if payload is None:
        assert not jpeg_stream.comes_back(stream)
        return False
    assert jpeg_stream.decode(payload, len(stream)) == stream
    return True


def sampled(stream: bytes, *factors: int) -> bytes:
    """A header with other sampling factors, one byte for each component."""
    changed, at = bytearray(stream), stream.index(b"\xff\xc0")
    for number, factor in enumerate(factors):
        changed[at + 11 + 3 * number] = factor
    return bytes(changed)


class TestRoundTrips:
    @pytest.mark.parametrize("options", OPTIONS, ids=str)
    @pytest.mark.parametrize("subsampling", [0, 1, 2])
    @pytest.mark.parametrize("quality", [5, 75, 92, 100])
    def test_photographs(self, quality: int, subsampling: int, options: dict[str, Any]) -> None:
        stream = jpeg(data.astronaut()[100:197, 150:271], quality=quality, subsampling=subsampling, **options)
        assert len(both_ways(stream)) < 0.92 * len(stream)

    @pytest.mark.parametrize("size", [(1, 1), (8, 8), (16, 16), (17, 33), (7, 100), (100, 7)])
    @pytest.mark.parametrize("channels", [1, 3, 4])
    def test_sizes_and_components(self, size: tuple[int, int], channels: int) -> None:
        both_ways(jpeg(picture(*size, channels=channels)))
        both_ways(jpeg(picture(*size, channels=channels), optimize=True, restart_marker_blocks=1))

    def test_one_component_with_sampling_factors(self) -> None:
        both_ways(sampled(jpeg(picture(37, 41, channels=1)), 0x22))

    def test_tables_of_sixteen_bits(self) -> None:
        tables = [[1 + 5 * k for k in range(64)], [300] * 64]
        stream = jpeg(picture(), qtables=tables)
        assert re.search(rb"\xff\xdb..\x10", stream, re.DOTALL)
        both_ways(stream)

    def test_the_same_coefficients_as_a_plain_parser(self) -> None:
        stream = jpeg(picture(50, 70))
        taken = jpeg_stream._taken(stream)
        assert taken is not None
        planes, tables = coefficients(stream)
        assert all((a == b).all() for a, b in zip(taken[1].planes, planes, strict=True))
        assert all((a == b).all() for a, b in zip(jpeg_stream._tables(taken[0]), tables, strict=True))

    def test_what_lies_around(self) -> None:
        stream = jpeg(picture(), comment=b"a comment", exif=b"Exif\0\0" + bytes(500), icc_profile=bytes(range(256)) * 300)
        for tail in (b"", b"x", bytes(1000), stream, EOI):
            both_ways(stream + tail)
        both_ways(stream[:-2])  # without its end
        both_ways(stream[:-2] + bytes(3) + EOI)  # more behind the last unit
        both_ways(stream[:-2] + b"\xff\xd0" + EOI)  # a restart too many

    @pytest.mark.parametrize("restarts", [0, 2])
    def test_what_fills_bytes_up(self, restarts: int) -> None:
        stream = jpeg(picture(40, 40), restart_marker_blocks=restarts)
        header = read_header(stream)
        parts = re.split(rb"(\xff[\xd0-\xd9])", stream[header.size :])
        segments = parts[:-1:2]
        assert len(segments) == header.segments
        free = [(~part[-1] & (part[-1] + 1)).bit_length() - 1 for part in segments]  # ones at the end, those of a code among them
        assert max(free) > 0
        zeros, mixed = list(parts), list(parts)
        taken = jpeg_stream._taken(stream)
        assert taken is not None
        assert taken[1].fill == jpeg_stream._ONES
        for number, part in enumerate(segments):
            for bits in range(free[number], 0, -1):
                changed = part[:-1] + bytes([part[-1] & ~((1 << bits) - 1)])
                other = [*parts[: 2 * number], changed, *parts[2 * number + 1 :]]
                if (found := jpeg_stream._taken(stream[: header.size] + b"".join(other))) is None:
                    continue  # bits of a code
                if all((a == b).all() for a, b in zip(found[1].planes, taken[1].planes, strict=True)):
                    zeros[2 * number] = changed
                    mixed[2 * number] = changed if number % 2 else part
                    break
        fills = set()
        for made in (zeros, mixed):
            changed_stream = stream[: header.size] + b"".join(made)
            both_ways(changed_stream)
            fills.add(jpeg_stream._taken(changed_stream)[1].fill)  # type: ignore[index]
        assert jpeg_stream._ZEROS in fills
        assert restarts == 0 or jpeg_stream._TOLD in fills

    def test_blank_images(self) -> None:
        assert len(both_ways(jpeg(np.full((700, 900), 255, np.uint8)))) < 300

    def test_start_codes_a_stream(self) -> None:
        jpeg_stream.start()


class TestBytes:
    def test_the_prefix_is_that_of_the_specification(self) -> None:
        assert len(jpeg_stream.prefix()) == 13232
        assert zlib.crc32(jpeg_stream.prefix()) == 0xC8BD3779

    def test_usual_headers_cost_little(self) -> None:
        stream = jpeg(picture(16, 16), quality=83)
        assert read_header(stream).size > 600
        assert len(both_ways(stream)) < len(stream) - 500

    def test_codes_are_canonical(self) -> None:
        counts = bytes([0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0])
        found = canonical(counts, bytes(range(12)))
        assert found[:3] == [(0, 0b00, 2), (1, 0b010, 3), (2, 0b011, 3)]
        assert found[-1] == (11, 0b111111110, 9)


class TestRefusals:
    def test_other_kinds(self) -> None:
        assert jpeg_stream.encode(jpeg(progressive=True)) is None
        assert jpeg_stream.encode(jpeg(picture(400, 400, channels=4), progressive=True)) is None
        assert jpeg_stream.encode(b"") is None
        assert jpeg_stream.encode(b"no picture at all") is None
        code = bytearray(jpeg())
        at = code.index(b"\xff\xc0")
        for change in ({at + 4: 12}, {at + 1: 0xC3}, {at + 5: 0, at + 6: 0}, {at + 11: 0x55}, {at + 11: 0}):
            other = bytearray(code)
            for place, value in change.items():
                other[place] = value
            assert jpeg_stream.encode(bytes(other)) is None

    def test_forged_sizes_take_no_memory(self) -> None:
        code = bytearray(jpeg())
        at = code.index(b"\xff\xc0")
        code[at + 5 : at + 9] = b"\xff" * 4
        assert jpeg_stream.encode(bytes(code)) is None
        payload = bytearray(both_ways(jpeg()))
        begin = len(jpeg_stream.MAGIC) + 1
        length, at = decode_varint(bytes(payload), begin)
        prefix = zstandard.ZstdCompressionDict(jpeg_stream.prefix(), dict_type=zstandard.DICT_TYPE_RAWCONTENT)
        frame = zstandard.ZstdCompressor(dict_data=prefix).compress(bytes(code[: read_header(bytes(code)).size]))
        made = bytes(payload[:begin]) + encode_varint(len(frame)) + frame + bytes(payload[at + length :])
        for most in (1 << 10, 1 << 26):
            with pytest.raises(ValueError, match=r"declares more|more of them"):
                jpeg_stream.decode(made, most)

    def test_zeros_told_in_other_ways(self) -> None:
        """A block whose last sixteen zeros are told one run at a time, before the end of the block."""
        tables = b"\xff\xdb\0\x43\0" + bytes([1] * 64) + jpeg_stream.prefix()[64 * 200 :]
        head = b"\xff\xd8" + tables + b"\xff\xc0\0\x0b\x08\0\x08\0\x08\1\1\x11\0\xff\xda\0\x08\1\1\0\0\x3f\0"
        codes = {symbol: (code, length) for symbol, code, length in canonical(*read_header(head).codes[16])}

        def stream(*symbols: int) -> bytes:
            bits = "00" + "".join(f"{codes[s][0]:0{codes[s][1]}b}" for s in symbols)
            bits += "1" * (-len(bits) % 8)
            code = bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))
            return head + code.replace(b"\xff", b"\xff\0") + EOI

        both_ways(stream(0))
        assert jpeg_stream.encode(stream(0xF0, 0)) is None
        assert jpeg_stream.encode(stream(0xF0, 0xF0, 0xF0, 0xF0)) is None
        assert jpeg_stream.encode(stream(0x31)[:-3]) is None  # cut off

    @pytest.mark.parametrize("options", [{}, {"optimize": True}, {"restart_marker_blocks": 2}], ids=str)
    def test_truncated_and_changed_streams(self, options: dict[str, Any]) -> None:
        stream = jpeg(picture(40, 40), **options)
        taken = [refused_or_back(stream[:end]) for end in range(0, len(stream), 11)]
        assert not all(taken)
        rng = np.random.default_rng(3)
        for _ in range(150):
            other = bytearray(stream)
            for _ in range(int(rng.integers(1, 4))):
                other[int(rng.integers(len(other)))] ^= int(rng.integers(1, 256))
            refused_or_back(bytes(other))

    def test_damaged_payloads(self) -> None:
        stream = jpeg(picture(40, 40), restart_marker_blocks=2)
        good = both_ways(stream)
        rng = np.random.default_rng(4)
        refused = 0
        for n in range(200):
            other = bytearray(good)
            if n % 4:
                other[int(rng.integers(len(good)))] ^= int(rng.integers(1, 256))
            else:
                del other[int(rng.integers(len(good))) :]
            try:
                found = jpeg_stream.decode(bytes(other), len(stream))
            except ValueError:
                refused += 1
            else:
                assert len(found) <= len(stream)
        assert refused > 20
        with pytest.raises(ValueError, match="longer than it should"):
            jpeg_stream.decode(good, len(stream) - 1)
        with pytest.raises(ValueError, match="no JPEG stream"):
            jpeg_stream.decode(b"", 100)


class TestRealFiles:
    def test_streams_in_files(self) -> None:
        folder = SHARED / "robustness"
        if not folder.is_dir():
            pytest.skip("no files of others here")
        found = 0
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.stat().st_size < 4 << 20:
                view = memoryview(path.read_bytes())
                for stream in find(view).streams[:20]:
                    found += refused_or_back(stream.read(view))
        assert found > 0

    def test_streams_of_tiles_with_tables_elsewhere_are_left(self) -> None:
        view = memoryview(slide([[jpeg(picture(32, 32))]], 32, 1))
        (stream,) = find(view).streams
        assert jpeg_stream.encode(stream.read(view)) is None

    def test_photographs_that_others_made(self) -> None:
        found = [refused_or_back(one.read_bytes()) for one in sorted(Path(data.__file__).parent.rglob("*.jpg"))]
        assert all(found)
