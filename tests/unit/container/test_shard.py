"""Shards: exact bytes, round trips, and the differences that a reader must notice."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import mmap
import struct
import threading
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from callic_archive import errors
from callic_archive.container import layout
from callic_archive.container.layout import IndexEntry, RecordRef, RecordType
from callic_archive.container.reader import ShardReader
from callic_archive.container.scan import Damage, ScannedRecord
from callic_archive.container.writer import ShardWriter

GOLDEN = Path(__file__).with_name("golden_shard.hex")
SHARD_ID = bytes(range(0xA0, 0xB0))
RECORDS = [
    (RecordType.ENTRY, b'{"path":"a/one.png"}', "a/one.png"),
    (RecordType.CODESTREAM, bytes(range(100)), "a/one.png"),
    (RecordType.STORED, b"", "a/\udcff\udcfe"),
    (RecordType.ADAPTER, b"\xabCLr\x01 no record", "adapter"),
    (RecordType.SURROUND, b"tail", "b"),
]


def write_shard(path: Path, records: list[tuple[RecordType, bytes, str]] = RECORDS, every: int = 4) -> None:
    with ShardWriter(path, shard_id=SHARD_ID, checkpoint_records=every) as writer:
        for record_type, payload, key in records:
            writer.append(record_type, payload, key=key)
        writer.seal()


def by_hand(record_type: int, sequence: int, key: bytes, payload: bytes) -> bytes:
    """A record put together from docs/format/container.md, without the package."""
    head = b"\xabCLr" + struct.pack("<BBHI", 1, record_type, len(key), sequence)
    head += SHARD_ID[:4] + struct.pack("<Q", len(payload))
    head += struct.pack("<I", zlib.crc32(head + key)) + key
    return head + payload + hashlib.sha256(SHARD_ID + head + payload).digest()[:16]


def test_exact_bytes_of_a_small_shard(tmp_path: Path) -> None:
    write_shard(tmp_path / "s.cla")
    assert (tmp_path / "s.cla").read_bytes() == bytes.fromhex(GOLDEN.read_text())


def test_the_golden_shard_is_what_the_specification_says() -> None:
    header = b"\x93CLA\r\n\x1a\n" + struct.pack("<I", 1) + SHARD_ID
    shard = header + struct.pack("<I", zlib.crc32(header))
    entries = b""
    for number, (record_type, payload, key) in enumerate(RECORDS[:4]):
        raw = key.encode("utf-8", "surrogateescape")
        record = by_hand(record_type, number, raw, payload)
        before = b"" if number == 0 else RECORDS[number - 1][2].encode("utf-8", "surrogateescape")
        shared = [0, 9, 2, 1][number]
        assert before[:shared] == raw[:shared]
        length = [b"\x49", b"\x99\x01", b"\x30", b"\x42"][number]  # LEB128 of 73, 153, 48, 66
        assert len(record) == [73, 153, 48, 66][number]
        entries += bytes((record_type,)) + length + bytes((shared, len(raw) - shared)) + raw[shared:]
        shard += record
    first_index = len(shard)
    index = by_hand(6, 4, b"", SHARD_ID + struct.pack("<QII", 32, 0, 4) + entries)
    last = by_hand(2, 5, b"b", b"tail")
    shard += index + last
    listed = bytes((6, len(index), 0, 0)) + bytes((2, len(last), 0, 1)) + b"b"
    second_index = len(shard)
    trailer = by_hand(6, 6, b"", SHARD_ID + struct.pack("<QII", first_index, 4, 2) + listed)
    shard += trailer
    end = SHARD_ID + struct.pack("<QQQ", len(shard), second_index, len(trailer))
    shard += by_hand(7, 7, b"", end)
    assert shard == bytes.fromhex(GOLDEN.read_text())


def test_the_golden_shard_is_read(tmp_path: Path) -> None:
    path = tmp_path / "s.cla"
    path.write_bytes(bytes.fromhex(GOLDEN.read_text()))
    with ShardReader(path) as reader:
        assert reader.shard_id == SHARD_ID
        assert reader.sealed
        items = list(reader.scan())
        assert all(isinstance(item, ScannedRecord) for item in items)
        found = [
            (i.ref.type, reader.read(i.ref, key=i.key), i.key)
            for i in items
            if isinstance(i, ScannedRecord) and i.ref.type not in (RecordType.INDEX, RecordType.END)
        ]
        assert found == RECORDS
        assert list(reader.index()) == reader.rebuild_index()[0]
        assert [e.ref.sequence for e in reader.index()] == list(range(7))


def test_seal_tells_size_and_hash(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "s.cla", shard_id=SHARD_ID) as writer:
        writer.append(RecordType.STORED, b"x" * 200_000, key="big")
        assert (tmp_path / "s.cla.partial").exists()
        sealed = writer.seal()
        with pytest.raises(errors.WriterClosed):
            writer.append(RecordType.STORED, b"", key="late")
    data = (tmp_path / "s.cla").read_bytes()
    assert not (tmp_path / "s.cla.partial").exists()
    assert (sealed.name, sealed.size, sealed.sha256) == ("s.cla", len(data), hashlib.sha256(data).hexdigest())


def test_an_empty_shard_is_sealed_and_read(tmp_path: Path) -> None:
    write_shard(tmp_path / "s.cla", [])
    with ShardReader(tmp_path / "s.cla") as reader:
        assert [e.ref.type for e in reader.index()] == [RecordType.INDEX]
        assert not [item for item in reader.scan() if isinstance(item, Damage)]


def test_every_kind_of_buffer_is_taken(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"0123456789" * 10_000)
    with (tmp_path / "source").open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    with ShardWriter(tmp_path / "s.cla", shard_id=SHARD_ID) as writer:
        refs = [
            writer.append(RecordType.STORED, data, key="k")
            for data in (b"0123456789", bytearray(b"0123456789"), memoryview(mapped)[:10], mapped)
        ]
        writer.seal()
    with ShardReader(tmp_path / "s.cla") as reader:
        assert [len(reader.read(ref)) for ref in refs] == [10, 10, 10, 100_000]
        assert b"".join(reader.chunks(refs[3], size=777)) == mapped[:]
    mapped.close()


def test_checkpoints_come_by_count_and_by_size(tmp_path: Path) -> None:
    def types(path: Path) -> list[str]:
        with ShardReader(path) as reader:
            return [e.ref.type.name for e in reader.index()]

    write_shard(tmp_path / "count.cla", [(RecordType.STORED, b"", "k")] * 5, every=3)
    assert types(tmp_path / "count.cla") == [*["STORED"] * 3, "INDEX", *["STORED"] * 2, "INDEX"]
    with ShardWriter(tmp_path / "size.cla", shard_id=SHARD_ID, checkpoint_bytes=1000) as writer:
        for _ in range(3):
            writer.append(RecordType.STORED, bytes(990), key="k")
        writer.checkpoint()  # the last record is an INDEX already: nothing to add
        writer.seal()
    assert types(tmp_path / "size.cla") == ["STORED", "INDEX"] * 3


def test_a_partial_shard_is_readable_while_it_grows(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "s.cla", shard_id=SHARD_ID) as writer:
        ref = writer.append(RecordType.STORED, b"payload", key="k")
        assert ref.shard == "s.cla"
        with ShardReader(tmp_path / "s.cla.partial") as reader:
            assert not reader.sealed
            assert reader.read(ref, key="k") == b"payload"
            with pytest.raises(errors.ShardNotSealed):
                next(reader.index())
            assert [i.code for i in reader.scan() if isinstance(i, Damage)] == ["E408"]


def test_one_writer_a_shard(tmp_path: Path) -> None:
    with (
        ShardWriter(tmp_path / "s.cla", shard_id=SHARD_ID) as writer,
        pytest.raises(errors.ShardExists, match="recover"),
    ):
        ShardWriter(tmp_path / "s.cla", shard_id=SHARD_ID)
    writer.close()
    write_shard(tmp_path / "t.cla")
    with pytest.raises(errors.ShardExists, match="never change"):
        ShardWriter(tmp_path / "t.cla", shard_id=SHARD_ID)
    with pytest.raises(errors.ShardExists, match="sealed"):
        ShardWriter.recover(tmp_path / "t.cla")


def test_what_a_writer_refuses(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "s.cla", shard_id=SHARD_ID) as writer:
        for reserved in (RecordType.INDEX, RecordType.END):
            with pytest.raises(ValueError, match="only"):
                writer.append(reserved, b"", key="")
        with pytest.raises(errors.ContainerLimit):
            writer.append(RecordType.STORED, b"", key="k" * 65536)
        with pytest.raises(errors.InvalidName):
            writer.append(RecordType.STORED, b"", key="\ud800")
        writer.append(RecordType.STORED, b"", key="k" * 65535)
        writer.seal()
    with pytest.raises(ValueError, match="16 bytes"):
        ShardWriter(tmp_path / "t.cla", shard_id=b"short")
    assert [p.name for p in tmp_path.iterdir()] == ["s.cla"]


# -- differences that must be noticed ----------------------------------------------------------------------


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """Two shards of the same shape in one folder; the first is returned."""
    records = [(RecordType.STORED, bytes([65 + n]) * 10, f"key{n}") for n in range(4)]
    write_shard(tmp_path / "s.cla", records)
    with ShardWriter(tmp_path / "other.cla", shard_id=bytes(16)) as writer:
        for record_type, payload, key in records:
            writer.append(record_type, payload, key=key)
        writer.seal()
    return tmp_path / "s.cla"


def entries_of(path: Path) -> list[IndexEntry]:
    with ShardReader(path) as reader:
        return list(reader.index())


def test_swapped_records_are_noticed(shard: Path) -> None:
    one, two = entries_of(shard)[1:3]
    data = bytearray(shard.read_bytes())
    assert one.ref.length == two.ref.length
    a, b = (slice(e.ref.offset, e.ref.offset + e.ref.length) for e in (one, two))
    data[a], data[b] = data[b], data[a]
    shard.write_bytes(data)
    with ShardReader(shard) as reader:
        for entry in (one, two):
            with pytest.raises(errors.WrongRecord):
                reader.read(entry.ref)
        damages = [item for item in reader.scan() if isinstance(item, Damage)]
        assert {d.code for d in damages} == {"E410"}
        assert all(d.length == 0 for d in damages)
        whole = [i for i in reader.scan() if isinstance(i, ScannedRecord) and i.ref.type is RecordType.STORED]
        assert sorted(i.key for i in whole) == ["key0", "key1", "key2", "key3"]  # nothing is lost to the scan


def test_swapped_payloads_and_keys_are_noticed(shard: Path) -> None:
    one, two = entries_of(shard)[1:3]
    whole = shard.read_bytes()
    for begin, size in ((32, 10), (28, 4)):  # payload; key
        data = bytearray(whole)
        a, b = (slice(e.ref.offset + begin, e.ref.offset + begin + size) for e in (one, two))
        assert data[a] != data[b]
        data[a], data[b] = data[b], data[a]
        shard.write_bytes(data)
        with ShardReader(shard) as reader:
            for entry in (one, two):
                with pytest.raises((errors.RecordChecksumMismatch, errors.RecordHeaderDamaged)):
                    reader.read(entry.ref)


def test_a_record_of_another_shard_is_noticed(shard: Path) -> None:
    ref = entries_of(shard)[2].ref
    place = slice(ref.offset, ref.offset + ref.length)
    data = bytearray(shard.read_bytes())
    data[place] = shard.with_name("other.cla").read_bytes()[place]
    shard.write_bytes(data)
    with ShardReader(shard) as reader:
        with pytest.raises(errors.WrongRecord):
            reader.read(ref)
        damages = [item for item in reader.scan() if isinstance(item, Damage)]
        assert [(d.offset, d.length, d.code) for d in damages] == [(ref.offset, ref.length, "E404")]
        assert [e.key for e in damages[0].records] == ["key2"]


def test_a_wrong_reference_is_noticed(shard: Path) -> None:
    entry = entries_of(shard)[1]
    with ShardReader(shard) as reader:
        assert reader.read(entry.ref, key="key1") == b"B" * 10
        with pytest.raises(errors.WrongRecord):
            reader.read(entry.ref, key="key2")
        for change in (
            {"type": RecordType.ENTRY},
            {"sequence": 2},
            {"length": entry.ref.length + 1},
            {"shard": "other.cla"},
        ):
            with pytest.raises(errors.WrongRecord):
                reader.read(dataclasses.replace(entry.ref, **change))
        with pytest.raises(errors.RecordHeaderDamaged):
            reader.read(dataclasses.replace(entry.ref, offset=entry.ref.offset + 1))
        with pytest.raises(errors.ShardTruncated):
            reader.read(dataclasses.replace(entry.ref, length=1 << 60))
        with pytest.raises(errors.ShardTruncated):
            reader.read(dataclasses.replace(entry.ref, offset=reader.size - 10, length=1000))


def test_files_that_are_no_shards(tmp_path: Path) -> None:
    for name, data in {"empty": b"", "zeros": bytes(5000), "text": b"hello " * 100}.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(errors.NotAShard):
            ShardReader(tmp_path / name)
    with pytest.raises(errors.ReadFailure):
        ShardReader(tmp_path / "missing")


def test_a_later_version_is_refused(tmp_path: Path) -> None:
    body = b"\x93CLA\r\n\x1a\n" + struct.pack("<I", 2) + SHARD_ID
    (tmp_path / "s.cla").write_bytes(body + struct.pack("<I", zlib.crc32(body)) + bytes(100))
    with pytest.raises(errors.UnsupportedShardVersion, match="version 2"):
        ShardReader(tmp_path / "s.cla")


def test_an_intact_record_of_an_unknown_type_is_damage_and_the_walk_goes_on(shard: Path) -> None:
    data = bytearray(shard.read_bytes())
    ref = entries_of(shard)[1].ref
    data[ref.offset : ref.offset + ref.length] = by_hand(99, 1, b"key1", b"B" * 10)
    shard.write_bytes(data)
    with ShardReader(shard) as reader:
        damages = [item for item in reader.scan() if isinstance(item, Damage)]
        assert [(d.offset, d.length, d.code) for d in damages] == [(ref.offset, ref.length, "E412")]


def test_bytes_after_the_end_and_missing_records(shard: Path) -> None:
    data = shard.read_bytes()
    shard.write_bytes(data + b"more")
    with ShardReader(shard) as reader:
        assert [(d.offset, d.length, d.code) for d in reader.scan() if isinstance(d, Damage)] == [
            (len(data), 4, "E411")
        ]
    ref = entries_of_bytes(shard, data)[1].ref
    shard.write_bytes(data[: ref.offset] + data[ref.offset + ref.length :])
    with ShardReader(shard) as reader:
        codes = [d.code for d in reader.scan() if isinstance(d, Damage)]
    assert codes[0] == "E410"  # then INDEX and END, which do not stand where they say
    assert set(codes[1:]) == {"E409", "E408"}


def entries_of_bytes(path: Path, data: bytes) -> list[IndexEntry]:
    path.write_bytes(data)
    return entries_of(path)


def test_a_shard_inside_a_shard_does_not_confuse_a_scan(tmp_path: Path) -> None:
    """After damage in the outer header, intact records of a stored shard must not be taken for its own."""
    with ShardWriter(tmp_path / "inner.cla", shard_id=bytes(16)) as writer:
        for n in range(5):
            writer.append(RecordType.STORED, b"inner", key=f"inner{n}")
        writer.seal()
    inner = (tmp_path / "inner.cla").read_bytes()
    write_shard(tmp_path / "s.cla", [(RecordType.STORED, inner, "outer"), (RecordType.STORED, b"z", "last")])
    data = bytearray((tmp_path / "s.cla").read_bytes())
    data[40] ^= 1
    (tmp_path / "s.cla").write_bytes(data)
    with ShardReader(tmp_path / "s.cla") as reader:
        first, *rest = list(reader.scan())
        assert isinstance(first, Damage)
        assert [e.key for e in first.records] == ["outer"]
        assert [r.key for r in rest if isinstance(r, ScannedRecord)] == ["last", "", ""]
    # Nor may the stored shard's INDEX give the outer one its identity when the outer header is lost.
    data = bytearray((tmp_path / "s.cla").read_bytes())
    data[:32] = bytes(32)
    data[-60:] = bytes(60)
    (tmp_path / "s.cla").write_bytes(data)
    with ShardReader(tmp_path / "s.cla") as reader:
        assert reader.shard_id == SHARD_ID


def test_threads_share_a_reader(shard: Path) -> None:
    entries = entries_of(shard)[:4]
    wrong: list[str] = []
    with ShardReader(shard) as reader:

        def work() -> None:
            for _ in range(50):
                for n, entry in enumerate(entries):
                    if reader.read(entry.ref) != bytes([65 + n]) * 10:
                        wrong.append(entry.key)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


# -- references --------------------------------------------------------------------------------------------


def test_references_are_json() -> None:
    ref = RecordRef("shard-00000.cla", 32, 44, RecordType.CODESTREAM, 7)
    assert json.dumps(ref.as_json()) == (
        '{"shard": "shard-00000.cla", "offset": 32, "length": 44, "type": "codestream", "sequence": 7}'
    )
    assert RecordRef.from_json(ref.as_json()) == ref


@pytest.mark.parametrize(
    "change",
    [
        {"shard": "../x"},
        {"shard": ".."},
        {"shard": ""},
        {"shard": 3},
        {"offset": 31},
        {"offset": True},
        {"offset": 1 << 62},
        {"length": 43},
        {"length": "44"},
        {"sequence": -1},
        {"sequence": 1 << 32},
        {"shard": "x" * 201},
        {"shard": "\udcff" * 100},
        {"type": "CODESTREAM"},
        {"type": "other"},
        {"type": None},
    ],
)
def test_bad_references_are_refused(change: dict[str, object]) -> None:
    good = RecordRef("s.cla", 32, 44, RecordType.CODESTREAM, 7).as_json()
    with pytest.raises(errors.IndexEntryInvalid):
        RecordRef.from_json({**good, **change})
    with pytest.raises(errors.IndexEntryInvalid):
        RecordRef.from_json([good])


# -- laws --------------------------------------------------------------------------------------------------

names = st.binary(max_size=30).map(lambda raw: raw.decode("utf-8", "surrogateescape"))
user_types = st.sampled_from([t for t in RecordType if t not in (RecordType.INDEX, RecordType.END)])


@settings(deadline=None, max_examples=60)
@given(
    records=st.lists(st.tuples(user_types, st.binary(max_size=200), names), max_size=12),
    every=st.integers(1, 5),
)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, records: list[tuple[RecordType, bytes, str]], every: int
) -> None:
    path = tmp_path_factory.mktemp("law") / "s.cla"
    with ShardWriter(path, shard_id=SHARD_ID, checkpoint_records=every) as writer:
        refs = [writer.append(t, payload, key=key) for t, payload, key in records]
        writer.seal()
    with ShardReader(path) as reader:
        for ref, (record_type, payload, key) in zip(refs, records, strict=True):
            assert ref.type is record_type
            assert reader.read(ref, key=key) == payload
        listed = list(reader.index())
        assert [e for e in listed if e.ref.type is not RecordType.INDEX] == [
            IndexEntry(ref, key) for ref, (_, _, key) in zip(refs, records, strict=True)
        ]
        assert reader.rebuild_index() == (listed, [])


@given(number=st.integers(0, (1 << 63) - 1))
def test_varints(number: int) -> None:
    raw = layout.encode_varint(number)
    assert layout.decode_varint(raw, 0) == (number, len(raw))


@pytest.mark.parametrize("raw", [b"", b"\x80", b"\x80\x00", b"\xff" * 9 + b"\x01", b"\x81\x80\x00"])
def test_bad_varints_are_refused(raw: bytes) -> None:
    with pytest.raises(errors.ShardIndexDamaged):
        layout.decode_varint(raw, 0)


@settings(max_examples=300)
@given(payload=st.binary(max_size=120))
def test_any_bytes_as_an_index_end_in_entries_or_the_named_error(payload: bytes) -> None:
    head = layout.INDEX_HEAD.pack(SHARD_ID, 32, 0, 2)
    try:
        found = list(layout.iter_index(head + payload, "s", offset=500, sequence=2))
    except errors.ShardIndexDamaged:
        return
    assert sum(e.ref.length for e in found) == 500 - 32
