"""The index file: the same bytes each time, names that are not UTF-8, and caps that hold."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from callic_archive import errors
from callic_archive.container import index
from callic_archive.container.index import decode_line, encode_line, read_index, write_index
from callic_archive.container.names import name_from_json, name_to_json

ENTRIES: list[dict[str, Any]] = [
    {"path": "b/ü.png", "size": 3, "nested": {"z": [1, 2.5, None], "a": True}},
    {"size": 0, "path": "a"},
    {**name_to_json(b"caf\xe9/x"), "size": 1 << 62},
]
LINES = (
    '{"nested":{"a":true,"z":[1,2.5,null]},"path":"b/ü.png","size":3}\n'
    '{"path":"a","size":0}\n'
    '{"path":"caf\\\\xe9/x","path_base64":"Y2Fm6S94","size":4611686018427387904}\n'
).encode()


def test_exact_text_and_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "index.jsonl.zst"
    written = write_index(path, iter(ENTRIES))
    data = path.read_bytes()
    assert (written.entries, written.size) == (3, len(data))
    assert written.sha256 == hashlib.sha256(data).hexdigest()
    assert zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data)).read() == LINES
    assert list(read_index(path)) == ENTRIES
    assert name_from_json(ENTRIES[2]) == "caf\udce9/x"


def test_the_same_entries_give_the_same_bytes(tmp_path: Path) -> None:
    many = [
        {"path": f"folder/{n:07d}.png", "sha256": hashlib.sha256(b"%d" % n).hexdigest()}
        for n in range(30_000)
    ]
    turned = [dict(reversed(entry.items())) for entry in many]
    assert write_index(tmp_path / "a", many) == write_index(tmp_path / "b", iter(turned))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert list(read_index(tmp_path / "a")) == many


def test_an_empty_index(tmp_path: Path) -> None:
    assert write_index(tmp_path / "i", []).entries == 0
    assert list(read_index(tmp_path / "i")) == []


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 70), 1 << 70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(
    entry=st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=8), json_values, max_size=5
    )
)
def test_any_json_object_survives_a_line(entry: dict[str, Any]) -> None:
    line = encode_line(entry)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert decode_line(line[:-1], "here") == entry


@pytest.mark.parametrize(
    "entry", [{"x": float("nan")}, {"x": float("inf")}, {"x": b"bytes"}, {"x": "\ud800"}]
)
def test_what_is_no_json_is_refused(tmp_path: Path, entry: dict[str, Any]) -> None:
    (tmp_path / "i").write_bytes(b"old")
    with pytest.raises(errors.IndexEntryInvalid):
        write_index(tmp_path / "i", [{"path": "fine"}, entry])
    assert [p.name for p in tmp_path.iterdir()] == ["i"]
    assert (tmp_path / "i").read_bytes() == b"old"


@pytest.mark.parametrize(
    "line",
    [
        b"[1]",
        b"1",
        b"",
        b"{",
        b'{"a":NaN}',
        b'{"a":-Infinity}',
        b'{"a":1,"a":2}',
        b'{"a":"\xff"}',
        b'{"a":"\\ud800"}',
        b'{"\\uDC00":1}',
        b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
        b'{"a":' + b"9" * 5000 + b"}",
    ],
    ids=range(12),
)
def test_bad_lines_name_their_number(tmp_path: Path, line: bytes) -> None:
    data = zstandard.ZstdCompressor().compress(b'{"path":"good"}\n' + line + b"\n")
    (tmp_path / "i").write_bytes(data)
    entries = read_index(tmp_path / "i")
    assert next(entries) == {"path": "good"}
    with pytest.raises(errors.IndexEntryInvalid, match="line 2 of i"):
        next(entries)


def test_each_damage_of_the_frame_is_found(tmp_path: Path) -> None:
    path = tmp_path / "i"
    write_index(path, ENTRIES)
    data = path.read_bytes()
    for size in range(len(data)):
        path.write_bytes(data[:size])
        with pytest.raises(errors.IndexDamaged):
            list(read_index(path))
    for position in range(len(data)):
        bad = bytearray(data)
        bad[position] ^= 0x10
        path.write_bytes(bad)
        try:
            found = list(read_index(path))
        except (errors.IndexDamaged, errors.IndexEntryInvalid):
            continue
        assert found == ENTRIES, position  # a bit of the frame header that changes nothing
    for more in (b"x", data):
        path.write_bytes(data + more)
        with pytest.raises(errors.IndexDamaged, match="goes on"):
            list(read_index(path))
    path.write_bytes(zstandard.ZstdCompressor().compress(b'{"path":"no line feed"}'))
    with pytest.raises(errors.IndexDamaged, match="whole line"):
        list(read_index(path))
    with pytest.raises(errors.ReadFailure):
        list(read_index(tmp_path / "missing"))


def test_a_bomb_without_line_feeds_meets_the_line_cap(tmp_path: Path) -> None:
    path = tmp_path / "i"
    path.write_bytes(zstandard.ZstdCompressor().compress(bytes(200 << 20)))
    assert path.stat().st_size < 20_000
    with pytest.raises(errors.IndexLineTooLong, match="line 1"):
        list(read_index(path))


def test_a_bomb_of_small_lines_meets_the_total_cap(tmp_path: Path) -> None:
    path = tmp_path / "i"
    path.write_bytes(zstandard.ZstdCompressor().compress(b"{}\n" * 200_000))
    assert sum(1 for _ in read_index(path, max_total=600_000)) == 200_000
    with pytest.raises(errors.IndexTooLarge):
        list(read_index(path, max_total=599_999))


def test_line_caps_hold_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "i"
    size = len(encode_line({"path": "x" * 100}))
    write_index(path, [{"path": "x" * 100}])
    assert list(read_index(path, max_line=size)) == [{"path": "x" * 100}]
    with pytest.raises(errors.IndexLineTooLong):
        list(read_index(path, max_line=size - 1))
    monkeypatch.setattr(index, "MAX_LINE", size - 1)
    with pytest.raises(errors.IndexLineTooLong):
        write_index(path, [{"path": "x" * 100}])


def test_an_error_of_the_source_of_entries_is_not_taken_for_a_write_error(tmp_path: Path) -> None:
    def entries() -> Iterator[dict[str, Any]]:
        yield {"path": "a"}
        raise OSError(5, "the source failed")

    with pytest.raises(OSError, match="the source failed"):
        write_index(tmp_path / "i", entries())
    assert list(tmp_path.iterdir()) == []
