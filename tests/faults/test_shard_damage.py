"""Damaged shards: each flipped byte, each truncation, each kill, a full disk, files made to hurt a reader."""

from __future__ import annotations

import os
import resource
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from callic_archive import errors
from callic_archive.container import fs, layout
from callic_archive.container.layout import IndexEntry, RecordRef, RecordType
from callic_archive.container.reader import ShardReader
from callic_archive.container.scan import Damage, ScannedRecord
from callic_archive.container.writer import ShardWriter

SHARD_ID = bytes(range(16))
RECORDS = [
    (RecordType.ENTRY, b"{}", "a"),
    (RecordType.CODESTREAM, b"\xabCLr\x01\x05" + bytes(20), "a"),
    (RecordType.STORED, b"", "empty"),
    (RecordType.ADAPTER, b"weights", "b"),
    (RecordType.SURROUND, b"0123456789", "b"),
    (RecordType.STORED, b"after the last checkpoint", "c"),
]


def build(path: Path, seal: bool = True) -> list[IndexEntry]:
    """A small shard with two checkpoints; its records without INDEX and END."""
    with ShardWriter(path, shard_id=SHARD_ID, checkpoint_records=3) as writer:
        found = [IndexEntry(writer.append(t, payload, key=key), key) for t, payload, key in RECORDS]
        if seal:
            writer.seal()
    return found


@pytest.fixture
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that write hundreds of shards: waiting for the storage proves nothing there."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, list[IndexEntry]]:
    path = tmp_path_factory.mktemp("sealed") / "s.cla"
    records = build(path)
    return path.read_bytes(), records


@pytest.fixture(scope="module")
def partial(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, list[IndexEntry]]:
    path = tmp_path_factory.mktemp("partial") / "s.cla"
    records = build(path, seal=False)
    return path.with_name("s.cla.partial").read_bytes(), records


def covers(damage: Damage, position: int) -> bool:
    return damage.offset <= position < damage.offset + damage.length


def hit(ref: RecordRef, start: int, end: int) -> bool:
    return ref.offset < end and ref.offset + ref.length > start


@pytest.mark.parametrize("mask", [0x01, 0xFF])
def test_each_flipped_byte_is_found_and_costs_one_record(
    tmp_path: Path, sealed: tuple[bytes, list[IndexEntry]], mask: int
) -> None:
    """No byte of a shard is free: each flip is reported where it is; all other records stay readable."""
    data, records = sealed
    path = tmp_path / "s.cla"
    path.write_bytes(data)
    with ShardReader(path) as reader:
        entries = list(reader.index())
    for position in range(len(data)):
        bad = bytearray(data)
        bad[position] ^= mask
        path.write_bytes(bad)
        with ShardReader(path) as reader:
            items = list(reader.scan())
            damages = [item for item in items if isinstance(item, Damage)]
            places = [damage for damage in damages if covers(damage, position)]
            assert len(places) == 1, position
            kept = {item.ref for item in items if isinstance(item, ScannedRecord)}
            for entry, (_, payload, key) in zip(records, RECORDS, strict=True):
                if hit(entry.ref, position, position + 1):
                    assert entry.ref not in kept
                    assert entry in places[0].records, position  # named, by its header or by an INDEX
                    with pytest.raises(errors.ContainerError):
                        reader.read(entry.ref, key=key)
                else:
                    assert entry.ref in kept, position
                    assert reader.read(entry.ref, key=key) == payload
            hurt = [e for e in entries if hit(e.ref, position, position + 1)]
            width = sum(d.length for d in damages)
            assert width == (hurt[0].ref.length if hurt else 32 if position < 32 else layout.END_SIZE)


def test_each_truncation_keeps_what_came_before(
    tmp_path: Path, sealed: tuple[bytes, list[IndexEntry]]
) -> None:
    data, records = sealed
    path = tmp_path / "s.cla"
    for size in range(layout.SHARD_HEADER_SIZE, len(data)):
        path.write_bytes(data[:size])
        with ShardReader(path) as reader:
            assert not reader.sealed
            items = list(reader.scan())
            whole = [e for e in records if e.ref.offset + e.ref.length <= size]
            kept = [IndexEntry(i.ref, i.key) for i in items if isinstance(i, ScannedRecord)]
            assert [e for e in kept if e.ref.type is not RecordType.INDEX] == whole
            damages = [i for i in items if isinstance(i, Damage)]
            assert damages[-1].code == "E408"
            lost = sum(d.length for d in damages)
            assert lost == size - max(
                [layout.SHARD_HEADER_SIZE, *(e.ref.offset + e.ref.length for e in kept)]
            )
            for entry in records[len(whole) :]:
                with pytest.raises(errors.ShardTruncated):
                    reader.read(entry.ref)
    for size in range(layout.SHARD_HEADER_SIZE):
        path.write_bytes(data[:size])
        with pytest.raises((errors.NotAShard, errors.ShardHeaderDamaged)):
            ShardReader(path)


@pytest.mark.usefixtures("no_fsync")
def test_a_kill_at_each_byte_of_a_partial_shard(
    tmp_path: Path, sealed: tuple[bytes, list[IndexEntry]], partial: tuple[bytes, list[IndexEntry]]
) -> None:
    """recover() keeps every whole record, and going on gives the very bytes of an uninterrupted run."""
    data, records = partial
    same = 0
    for size in range(len(data) + 1):
        path = tmp_path / f"{size}" / "s.cla"
        path.parent.mkdir()
        path.with_name("s.cla.partial").write_bytes(data[:size])
        with ShardWriter.recover(path, shard_id=SHARD_ID, checkpoint_records=3) as writer:
            found = writer.recovery
            assert found is not None
            assert found.discarded == 0
            kept = [e for e in found.records if e.ref.type is not RecordType.INDEX]
            assert kept == [e for e in records if e.ref.offset + e.ref.length <= size]
            assert writer.size + found.truncated_bytes == size + (32 if size < 32 else 0)
            for record_type, payload, key in RECORDS[len(kept) :]:
                writer.append(record_type, payload, key=key)
            writer.seal()
        # Where the kill fell between a record and the checkpoint due after it, that comes a record later.
        since = [e.ref.type for e in found.records[-3:]]
        if len(since) < 3 or RecordType.INDEX in since[1:]:
            assert path.read_bytes() == sealed[0], size
            same += 1
        with ShardReader(path) as reader:
            assert reader.rebuild_index() == (list(reader.index()), [])
            assert [reader.read(e.ref) for e in reader.index() if e.ref.type is not RecordType.INDEX] == [
                payload for _, payload, _ in RECORDS
            ]
    assert same > len(data) / 2


@pytest.mark.usefixtures("no_fsync")
def test_a_kill_within_sealing(tmp_path: Path, sealed: tuple[bytes, list[IndexEntry]]) -> None:
    data, records = sealed
    last = records[-1].ref
    for size in range(last.offset + last.length, len(data) + 1):
        path = tmp_path / f"{size}" / "s.cla"
        path.parent.mkdir()
        path.with_name("s.cla.partial").write_bytes(data[:size])
        with ShardWriter.recover(path.with_name("s.cla.partial")) as writer:  # either name will do
            assert writer.shard_id == SHARD_ID
            sealed_again = writer.seal()
        assert path.read_bytes() == data
        assert sealed_again.size == len(data)


def test_recover_without_an_id_begins_a_torn_header_anew(tmp_path: Path) -> None:
    (tmp_path / "s.cla.partial").write_bytes(b"\x93CL")
    with ShardWriter.recover(tmp_path / "s.cla") as writer:
        ref = writer.append(RecordType.STORED, b"x", key="k")
        writer.seal()
    with ShardReader(tmp_path / "s.cla") as reader:
        assert reader.shard_id == writer.shard_id != bytes(16)
        assert reader.read(ref) == b"x"
    with pytest.raises(errors.ReadFailure):
        ShardWriter.recover(tmp_path / "nothing.cla")


def test_recover_tells_records_lost_behind_damage(
    tmp_path: Path, partial: tuple[bytes, list[IndexEntry]]
) -> None:
    """A power cut may leave a hole before whole records; what is cut off with it is counted, not hidden."""
    data, records = partial
    hole = records[1].ref
    bad = data[: hole.offset] + bytes(hole.length) + data[hole.offset + hole.length :]
    (tmp_path / "s.cla.partial").write_bytes(bad)
    with ShardWriter.recover(tmp_path / "s.cla") as writer:
        found = writer.recovery
    assert found is not None
    assert [e.key for e in found.records] == ["a"]
    assert found.discarded == 6  # four others and two INDEX records
    assert found.damage is not None
    assert found.damage.offset == hole.offset
    assert found.truncated_bytes == len(data) - hole.offset


def test_recover_mends_a_damaged_header_when_the_id_is_known(
    tmp_path: Path, partial: tuple[bytes, list[IndexEntry]]
) -> None:
    data, records = partial
    bad = bytes(32) + data[32:]
    (tmp_path / "s.cla.partial").write_bytes(bad)
    with ShardWriter.recover(tmp_path / "s.cla") as writer:  # the checkpoint INDEX tells it
        assert writer.shard_id == SHARD_ID
        writer.seal()
    with ShardReader(tmp_path / "s.cla") as reader:
        assert reader.header_damage is None
        assert [e for e in reader.index() if e.ref.type is not RecordType.INDEX] == records
    first = bad[: records[2].ref.offset]  # before any INDEX
    (tmp_path / "t.cla.partial").write_bytes(first)
    with pytest.raises(errors.ShardHeaderDamaged):
        ShardWriter.recover(tmp_path / "t.cla")
    with ShardReader(tmp_path / "t.cla.partial", shard_id=SHARD_ID) as reader:
        assert reader.header_damage is not None
        assert [i.key for i in reader.scan() if isinstance(i, ScannedRecord)] == ["a", "a"]


def test_a_lost_index_is_rebuilt_by_scanning(tmp_path: Path, sealed: tuple[bytes, list[IndexEntry]]) -> None:
    data, records = sealed
    path = tmp_path / "s.cla"
    path.write_bytes(data)
    with ShardReader(path) as reader:
        indexes = [e.ref for e in reader.index() if e.ref.type is RecordType.INDEX]
    assert len(indexes) == 3
    for lost in indexes:
        path.write_bytes(data[: lost.offset] + bytes(lost.length) + data[lost.offset + lost.length :])
        with ShardReader(path) as reader:
            with pytest.raises(errors.ShardIndexDamaged):
                next(reader.index())
            entries, damages = reader.rebuild_index()
            assert [e for e in entries if e.ref.type is not RecordType.INDEX] == records
            assert [(d.offset, d.length) for d in damages] == [(lost.offset, lost.length)]


def test_several_damages_are_kept_apart(tmp_path: Path, sealed: tuple[bytes, list[IndexEntry]]) -> None:
    data, records = sealed
    bad = bytearray(data)
    for n in (0, 1, 3):  # two neighbours by their payloads, one by its header
        ref = records[n].ref
        bad[ref.offset + (ref.length - 17 if n < 3 else 9)] ^= 4
    path = tmp_path / "s.cla"
    path.write_bytes(bad)
    with ShardReader(path) as reader:
        items = list(reader.scan())
    damages = [(d.offset, d.length, d.code) for d in items if isinstance(d, Damage)]
    assert damages == [
        (records[n].ref.offset, records[n].ref.length, "E405" if n < 3 else "E404") for n in (0, 1, 3)
    ]
    assert [d.records for d in items if isinstance(d, Damage)] == [(records[n],) for n in (0, 1, 3)]


def test_inserted_and_removed_bytes_cost_what_they_touch(
    tmp_path: Path, sealed: tuple[bytes, list[IndexEntry]]
) -> None:
    data, records = sealed
    path = tmp_path / "s.cla"
    middle = records[1].ref.offset + 40
    for bad in (data[:middle] + b"inserted" + data[middle:], data[:middle] + data[middle + 5 :]):
        path.write_bytes(bad)
        with ShardReader(path) as reader:
            items = list(reader.scan())
        keys = [i.key for i in items if isinstance(i, ScannedRecord) and i.ref.type is not RecordType.INDEX]
        assert keys == ["a", "empty", "b", "b", "c"]
        assert next(d for d in items if isinstance(d, Damage)).records[0].ref.offset == records[1].ref.offset


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_whatever_happens_to_the_bytes_a_scan_ends_and_accounts_for_them(
    tmp_path_factory: pytest.TempPathFactory, sealed: tuple[bytes, list[IndexEntry]], data: st.DataObject
) -> None:
    whole, _ = sealed
    bad = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(bad)))
        piece = data.draw(st.binary(max_size=40))
        end = min(len(bad), start + data.draw(st.integers(0, 60)))
        bad[start:end] = piece
    path = tmp_path_factory.mktemp("any") / "s.cla"
    path.write_bytes(bad)
    with ShardReader(path, shard_id=None if bad[:32] == whole[:32] else SHARD_ID) as reader:
        position = layout.SHARD_HEADER_SIZE if reader.header_damage is None else 0
        for item in reader.scan():
            if isinstance(item, Damage):
                assert item.offset == position or item.length == 0
                position += item.length
            else:
                assert item.ref.offset == position
                position += item.ref.length
                if item.ref.type not in (RecordType.INDEX, RecordType.END):
                    assert (item.ref.type, reader.read(item.ref), item.key) in RECORDS
        assert position == max(len(bad), min(position, layout.SHARD_HEADER_SIZE))


# -- storage that fails ------------------------------------------------------------------------------------


def test_unreadable_blocks_are_damage_and_not_an_exception(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ShardWriter(tmp_path / "s.cla", shard_id=SHARD_ID) as writer:
        refs = [writer.append(RecordType.STORED, bytes([n]) * 9000, key=f"k{n}") for n in range(5)]
        writer.seal()
    bad = range(5, 6)  # block numbers of 4096 bytes
    real = os.pread

    def pread(fd: int, size: int, offset: int) -> bytes:
        if any(offset < (b + 1) * 4096 and offset + size > b * 4096 for b in bad):
            raise OSError(5, "Input/output error")
        return real(fd, size, offset)

    monkeypatch.setattr(os, "pread", pread)
    with ShardReader(tmp_path / "s.cla") as reader:
        items = list(reader.scan())
        kept = [i.key for i in items if isinstance(i, ScannedRecord) and i.key]
        lost = [e.key for d in items if isinstance(d, Damage) for e in d.records]
        assert kept == ["k0", "k1", "k3", "k4"]
        assert lost == ["k2"]
        with pytest.raises(errors.ReadFailure):
            reader.read(refs[2])


class Disk:
    """os.write on a disk with so many bytes left; a write may be cut short before the error, as real ones."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int, number: int = 28) -> None:
        self.room = room
        self._real = os.write
        self._number = number
        monkeypatch.setattr(os, "write", self.write)

    def write(self, fd: int, data: bytes) -> int:
        if self.room <= 0:
            raise OSError(self._number, os.strerror(self._number))
        written = self._real(fd, memoryview(data)[: self.room])
        self.room -= written
        return written


@pytest.mark.usefixtures("no_fsync")
def test_a_full_disk_at_each_byte_leaves_whole_records_and_can_be_overcome(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sealed: tuple[bytes, list[IndexEntry]]
) -> None:
    disk = Disk(monkeypatch, 0)
    for room in range(0, len(sealed[0]), 5):
        folder = tmp_path / f"{room}"
        folder.mkdir()
        disk.room = room
        if room < layout.SHARD_HEADER_SIZE:
            with pytest.raises(errors.OutOfSpace):
                ShardWriter(folder / "s.cla", shard_id=SHARD_ID)
            assert list(folder.iterdir()) == []
            continue
        failures = 0
        with ShardWriter(folder / "s.cla", shard_id=SHARD_ID, checkpoint_records=3) as writer:
            steps = [partial_of(writer.append, *record) for record in RECORDS]
            for step in [*steps, writer.seal]:
                try:
                    step()
                except errors.OutOfSpace:
                    failures += 1
                    with ShardReader(folder / "s.cla.partial") as reader:  # nothing torn was left behind
                        assert [i.code for i in reader.scan() if isinstance(i, Damage)] == ["E408"]
                    disk.room = 1 << 30  # somebody made room
                    step()
        assert failures == 1
        with ShardReader(folder / "s.cla") as reader:
            found, damages = reader.rebuild_index()
            assert damages == []
            assert found == list(reader.index())
            assert [e.key for e in found if e.key] == [key for _, _, key in RECORDS]


def partial_of(
    append: Callable[..., object], kind: RecordType, payload: bytes, key: str
) -> Callable[[], object]:
    return lambda: append(kind, payload, key=key)


@pytest.mark.parametrize(
    ("number", "kind"),
    [(28, errors.OutOfSpace), (122, errors.OutOfSpace), (27, errors.OutOfSpace), (5, errors.WriteFailure)],
)
def test_write_errors_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[errors.EnvironmentFailure]
) -> None:
    with ShardWriter(tmp_path / "s.cla", shard_id=SHARD_ID) as writer:
        Disk(monkeypatch, 0, number)
        with pytest.raises(kind, match=r"s\.cla\.partial"):
            writer.append(RecordType.STORED, b"x", key="k")


def test_a_device_that_is_full() -> None:
    assert issubclass(errors.OutOfSpace, errors.EnvironmentFailure)
    fd = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(errors.OutOfSpace), fs.writing("/dev/full"):
        fs.write_all(fd, b"x")
    os.close(fd)


def test_a_file_size_limit_of_the_system(tmp_path: Path) -> None:
    """The same through the operating system: RLIMIT_FSIZE in a process of its own."""
    script = f"""
import resource, sys
from pathlib import Path
from callic_archive import errors
from callic_archive.container.layout import RecordType
from callic_archive.container.writer import ShardWriter
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, {resource.RLIM_INFINITY}))
writer = ShardWriter(Path(sys.argv[1]), shard_id=bytes(16))
writer.append(RecordType.STORED, bytes(50_000), key="fits")
try:
    writer.append(RecordType.STORED, bytes(80_000), key="does not")
except errors.OutOfSpace:
    writer.append(RecordType.STORED, bytes(10_000), key="fits still")
    writer.seal()
    sys.exit(7)
"""
    path = tmp_path / "s.cla"
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], cwd=Path(__file__).parents[2], check=False
    )
    assert done.returncode == 7
    with ShardReader(path) as reader:
        assert [e.key for e in reader.index() if e.key] == ["fits", "fits still"]


def test_an_interrupt_within_a_write_leaves_a_shard_that_recovers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ShardWriter(tmp_path / "s.cla", shard_id=SHARD_ID) as writer:
        writer.append(RecordType.STORED, b"first", key="k1")
        real = os.write

        def write(fd: int, data: bytes) -> int:
            real(fd, memoryview(data)[:9])
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(os, "write", write)
            with pytest.raises(KeyboardInterrupt):
                writer.append(RecordType.STORED, b"second", key="k2")
        with pytest.raises(errors.WriterClosed):
            writer.append(RecordType.STORED, b"third", key="k3")
    with ShardWriter.recover(tmp_path / "s.cla") as writer:
        assert writer.recovery is not None
        assert [e.key for e in writer.recovery.records] == ["k1"]


# -- files made to hurt ------------------------------------------------------------------------------------


def forged(type_code: int, sequence: int, payload_length: int, key: bytes = b"") -> bytes:
    head = b"\xabCLr" + struct.pack("<BBHI", 1, type_code, len(key), sequence) + SHARD_ID[:4]
    head += struct.pack("<Q", payload_length)
    return head + struct.pack("<I", zlib.crc32(head + key)) + key


def test_lengths_are_not_trusted(tmp_path: Path) -> None:
    """A header with a good CRC that announces 2**61 bytes allocates nothing and is named as cut off."""
    path = tmp_path / "s.cla"
    path.write_bytes(layout.encode_shard_header(SHARD_ID) + forged(5, 0, 1 << 61, b"huge") + b"few bytes")
    with ShardReader(path) as reader:
        damage, unsealed = list(reader.scan())
        assert isinstance(damage, Damage)
        assert isinstance(unsealed, Damage)
        assert (damage.code, damage.length, unsealed.code) == ("E407", 41, "E408")
        assert [e.key for e in damage.records] == ["huge"]
        for length in (48 + (1 << 61), 41):
            with pytest.raises((errors.ShardTruncated, errors.WrongRecord)):
                reader.read(RecordRef("s.cla", 32, length, RecordType.STORED, 0))


@pytest.mark.parametrize("type_code", [RecordType.STORED, RecordType.INDEX])
@pytest.mark.parametrize("header", [True, False])
def test_forged_headers_cannot_make_a_scan_quadratic(tmp_path: Path, type_code: int, header: bool) -> None:
    """Intact headers, each of which claims the rest of the file: hashing each to its end would take hours."""
    count, size = 100_000, 28
    total = 32 + count * size + 16
    out = bytearray(layout.encode_shard_header(SHARD_ID) if header else bytes(32))
    for n in range(count):
        out += forged(type_code, n, total - len(out) - 44)
    path = tmp_path / "s.cla"
    path.write_bytes(out + bytes(16))
    begin = time.monotonic()
    if not header:
        with pytest.raises(errors.ShardHeaderDamaged):
            ShardReader(path)
    with ShardReader(path, shard_id=SHARD_ID) as reader:
        damages = [i for i in reader.scan() if isinstance(i, Damage)]
        assert sum(d.length for d in damages) == total - 32 * header
    assert time.monotonic() - begin < 20
