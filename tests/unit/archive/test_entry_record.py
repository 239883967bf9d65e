"""ENTRY records: what they leave out comes back, small parts lie inside, and nonsense is refused."""

from __future__ import annotations

import json
import zlib
from dataclasses import replace
from typing import Any

import pytest

from callic_archive.archive.codecs import StreamInfo
from callic_archive.archive.entries import Entry, with_whole_digests
from callic_archive.archive.entry_record import (
    DICTIONARY,
    Inline,
    Position,
    decode_entry,
    encode_entry,
    finished_parts,
)
from callic_archive.archive.parts import Base, Part, Place
from callic_archive.container.layout import RecordRef, RecordType, encode_varint
from callic_archive.errors import EntryDamaged

SHARD = "shard-00001.cla"
AT = Position(SHARD, 10_000, 9)
SHA, OTHER, MODEL = "ab" * 32, "cd" * 32, "0123456789abcdef" * 4
STREAM = StreamInfo((20, 10), "uint16", "range", (MODEL,), (), 0)
FILE = Entry("a/\udcff", "file", 0o644, -5, size=70, sha256=SHA, method="stored")


def ref(offset: int, length: int, sequence: int, kind: RecordType, shard: str = SHARD) -> RecordRef:
    return RecordRef(shard, offset, length, kind, sequence)


def there_and_back(entry: Entry, parts: list[Part | Inline]) -> tuple[Entry, Entry, bytes]:
    payload, places = encode_entry(entry, parts, AT)
    own = ref(AT.offset, 44 + len(payload), AT.sequence, RecordType.ENTRY)
    written = replace(entry, parts=finished_parts(parts, own, places))
    return decode_entry(payload, entry.path, own), written, payload


def test_parts_right_before_the_record_need_their_lengths_alone() -> None:
    surround = Part(ref(9_000, 400, 7, RecordType.SURROUND), "zstd", 900)
    image = Part(ref(9_400, 600, 8, RecordType.CODESTREAM), "codestream", 400, STREAM)
    entry = replace(FILE, method="image", format="npy", recipe={"layouts": []}, content_sha256=OTHER)
    found, written, payload = there_and_back(entry, [surround, image])
    assert with_whole_digests(found, [MODEL]) == written
    assert found.models() == {MODEL[:16]}
    assert len(payload) < len(json.dumps(written.as_json())) // 3


def test_a_reason_costs_little_and_is_checked() -> None:
    part = Inline(b"x" * 70, "raw", 70)
    plain = there_and_back(FILE, [part])[2]
    found, written, payload = there_and_back(replace(FILE, reason="no-pixels"), [part])
    assert (found, found.reason) == (written, "no-pixels")
    assert len(payload) <= len(plain) + 20
    row = written.as_json()
    assert Entry.from_json(row | {"reason": "of-a-later-version"}).reason == "of-a-later-version"
    for wrong in ("", "Two words", "x" * 40, 5, None, ["lossy"]):
        with pytest.raises(EntryDamaged, match="reason"):
            Entry.from_json(row | {"reason": wrong})


@pytest.mark.parametrize("shard", [SHARD, "shard-00000.cla"])
def test_parts_elsewhere_keep_their_references(shard: str) -> None:
    part = Part(ref(500, 200, 2, RecordType.STORED, shard), "raw", 70)
    found, written, _ = there_and_back(FILE, [part])
    assert found == written
    inside = Part(ref(500, 200, 2, RecordType.ENTRY, shard), "raw", 70, None, (30, 70))
    found, written, _ = there_and_back(FILE, [inside])
    assert found == written


def test_an_index_record_between_parts_and_entry_is_noticed() -> None:
    part = Part(ref(9_000, 900, 7, RecordType.STORED), "raw", 70)  # 9,900 to 10,000: an INDEX
    found, written, _ = there_and_back(FILE, [part])
    assert found == written


def test_small_parts_lie_inside() -> None:
    places = (
        Place(ref(600, 90, 3, RecordType.SURROUND)),
        Place(ref(800, 90, 4, RecordType.ENTRY, "s.cla"), (5, 9)),
    )
    parts: list[Part | Inline] = [
        Inline(b"x" * 30, "raw", 30),
        Part(ref(9_900, 100, 8, RecordType.STORED), "zstd", 30),
        Inline(b"yz", "zstd", 10, None, Base(places, "zstd", 1000)),
    ]
    found, written, payload = there_and_back(FILE, parts)
    assert found == written
    assert payload.endswith(b"x" * 30 + b"yz")
    for part, expected in ((found.parts[0], b"x" * 30), (found.parts[2], b"yz")):
        assert part.within is not None
        start, length = part.within
        assert payload[start : start + length] == expected
        assert part.place.stored == len(expected)


def test_folders_and_links_take_few_bytes() -> None:
    for entry in (Entry("d", "directory", 0o755, 7), Entry("l", "symlink", 0o777, 0, target="\udcfe/x")):
        found, written, payload = there_and_back(entry, [])
        assert found == written
        assert len(payload) < 60


def record(row: Any, digests: int = 1, tail: bytes = b"", cut: int = 0) -> bytes:
    engine = zlib.compressobj(9, zlib.DEFLATED, -15, 9, 0, DICTIONARY)
    text = engine.compress(json.dumps(row).encode()) + engine.flush()
    head = encode_varint(digests) + bytes.fromhex(SHA) * digests + encode_varint(len(text)) + text
    return (head + tail)[: len(head + tail) - cut]


ROW: dict[str, Any] = {
    "kind": "file", "mode": 0, "mtime_ns": 0, "size": 2, "sha256": 0, "fidelity": "bytes", "method": "stored",
    "parts": [{"coding": "raw", "inline": 2, "size": 2}],
}  # fmt: skip


def part(**change: Any) -> dict[str, Any]:
    return {**ROW, "parts": [{"coding": "raw", "size": 2, **change}]}


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff" * 12,
        record([]),
        record("text"),
        record(ROW, digests=0, tail=b"ab"),
        record(ROW),
        record(ROW, tail=b"abc"),
        record(ROW, tail=b"ab", cut=3),
        record({**ROW, "sha256": SHA}, tail=b"ab"),
        record({**ROW, "sha256": -1}, tail=b"ab"),
        record({**ROW, "size": 3}, tail=b"ab"),
        record({**ROW, "parts": {}}),
        record(part(length=20_000)),
        record(part(length=10)),
        record(part()),
        record(part(record=[1, 2])),
        record(part(record=[100, 46, "stored", 1], base={"places": [], "coding": "raw", "size": 1})),
        record(part(inline=2, coding="magic"), tail=b"ab"),
        record("x" * (17 << 20)),
    ],
)
def test_what_no_packer_writes_is_refused(payload: bytes) -> None:
    good = decode_entry(record(ROW, tail=b"ab"), "a", ref(100, 300, 1, RecordType.ENTRY))
    assert good.parts[0].within is not None
    with pytest.raises(EntryDamaged):
        decode_entry(payload, "a", ref(100, 300, 1, RecordType.ENTRY))
