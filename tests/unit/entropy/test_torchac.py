"""The torchac coder: round trips, and refusals where torchac itself would code or read garbage.

The tests that need the backend skip, with the reason, where it cannot be compiled.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from callic_archive.entropy import torchac
from callic_archive.entropy.mixture import ideal_bits
from callic_archive.errors import (
    CodestreamError,
    EntropyInputError,
    StreamCorruptError,
    StreamTrailingError,
    StreamTruncatedError,
    TorchacLevelsError,
    TorchacUnavailableError,
)
from tests.unit.entropy.cases import TABLES, Case, adversarial, fixed, realistic

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def backend() -> Any:
    try:
        return torchac.load_backend()
    except TorchacUnavailableError as error:
        pytest.skip(str(error))


def encode(case: Case) -> bytes:
    encoder = torchac.TorchacEncoder()
    encoder.encode_pixels(*case.context, TABLES, case.symbols)
    return encoder.finish()


def decode(case: Case, data: bytes) -> np.ndarray:
    decoder = torchac.TorchacDecoder(data)
    symbols = decoder.decode_pixels(*case.context, TABLES)
    decoder.finish()
    return symbols


def test_importing_the_module_imports_no_torch() -> None:
    code = (
        "import sys, callic_archive.entropy.torchac; "
        "sys.exit('torch' in sys.modules or 'torchac' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, timeout=60).returncode == 0


@pytest.mark.usefixtures("backend")
def test_golden_bytes() -> None:
    case = fixed(6, 5, [0] * 3, [0] * 3, [255] * 3)
    data = encode(case)
    assert data.hex() == "06fc0f54be664806c495cf4aa97007949e8265b6cd80"
    assert np.array_equal(decode(case, data), case.symbols)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize(
    "ranges", [[(0, 255)] * 3, [(0, 1)], [(-2048, 2047)], [(5, 5), (-3, 9)], [(0, 0)]], ids=str
)
def test_round_trip_of_anything(ranges: list[tuple[int, int]]) -> None:
    case = adversarial(np.random.default_rng(1), 40, len(ranges), 3, ranges)
    assert np.array_equal(decode(case, encode(case)), case.symbols)


@pytest.mark.usefixtures("backend")
def test_long_calls_are_cut_into_several_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    case = realistic(50, 3, 5, 8, seed=2)
    whole = encode(case)
    monkeypatch.setattr(torchac, "MAX_TABLE_ENTRIES", 257 * 20)
    data = encode(case)
    assert len(data) > len(whole)
    assert np.array_equal(decode(case, data), case.symbols)


@pytest.mark.usefixtures("backend")
def test_steps_are_read_back_one_by_one_and_cost_little() -> None:
    case = realistic(3000, 3, 5, 8, seed=3)
    encoder = torchac.TorchacEncoder()
    halves = [case.part(slice(0, 1000)), case.part(slice(1000, 3000))]
    for half in halves:
        encoder.encode_pixels(*half.context, TABLES, half.symbols)
    data = encoder.finish()
    decoder = torchac.TorchacDecoder(data)
    for half in halves:
        assert np.array_equal(decoder.decode_pixels(*half.context, TABLES), half.symbols)
    decoder.finish()
    ideal = float(ideal_bits(*case.context, TABLES, case.symbols).sum())
    assert ideal < 8 * len(data) < 1.01 * ideal


@pytest.mark.usefixtures("backend")
def test_a_changed_stream_never_passes_as_the_same() -> None:
    case = realistic(60, 3, 5, 8, seed=4)
    data = encode(case)
    for i in range(len(data)):
        for changed in (data[:i], data[:i] + bytes([data[i] ^ 16]) + data[i + 1 :]):
            try:
                symbols = decode(case, changed)
            except CodestreamError:
                continue
            assert not np.array_equal(symbols, case.symbols)
    with pytest.raises(StreamTrailingError):
        decode(case, data + b"\0")


@pytest.mark.usefixtures("backend")
def test_single_steps_check_what_torchac_does_not() -> None:
    rows = np.array([[0, 10, 60000, 65536]] * 4)
    symbols = np.array([0, 1, 2, 1])
    stream = torchac.encode_step(rows, symbols)
    assert torchac.decode_step(rows, stream).tolist() == [0, 1, 2, 1]
    assert torchac.encode_step((rows % 65536).astype(np.uint16), symbols) == stream
    with pytest.raises(StreamTrailingError):
        torchac.decode_step(rows, stream + b"\0")
    with pytest.raises((StreamCorruptError, StreamTrailingError)):
        torchac.decode_step(rows, stream[:-1] + bytes([stream[-1] ^ 1]))


def test_single_steps_refuse_bad_rows_and_symbols() -> None:
    rows = np.array([[0, 10, 60000, 65536]] * 2)
    for symbols in (np.array([0, 3]), np.array([-1, 0]), np.array([0]), np.array([0.0, 1.0])):
        with pytest.raises(EntropyInputError):
            torchac.encode_step(rows, symbols)
    for bad in (
        [0, 10, 10, 65536],
        [1, 10, 20, 65536],
        [0, 10, 20, 65535],
        [0, 70000, 80000, 65536],
        [0, 65536],
    ):
        with pytest.raises(EntropyInputError):
            torchac.encode_step(np.array([bad]), np.array([0]))


def test_planes_beyond_12_bits_are_refused_by_name() -> None:
    case = fixed(2, 2, [0], [0], [4096])
    with pytest.raises(TorchacLevelsError, match="use the range coder"):
        encode(case)
    with pytest.raises(TorchacLevelsError):
        decode(case, b"")


def test_symbols_out_of_range_are_refused() -> None:
    case = fixed(2, 2, [0], [0], [255])
    with pytest.raises(EntropyInputError):
        torchac.TorchacEncoder().encode_pixels(*case.context, TABLES, case.symbols - np.int32(256))


def test_lengths_are_checked_before_torchac_sees_a_byte() -> None:
    case = fixed(2, 2, [0], [0], [255])
    for data in (b"", b"\x80", b"\x05abcd"):
        with pytest.raises(StreamTruncatedError):
            decode(case, data)
    for data in (b"\x81\x00a", b"\x80" * 5 + b"\x01"):
        with pytest.raises(StreamCorruptError):
            decode(case, data)


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torchac, "_backend_module", None)
    monkeypatch.setattr(torchac.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TorchacUnavailableError, match="pip install torchac"):
        torchac.load_backend()


def test_a_failed_build_is_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torchac, "_backend_module", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(TorchacUnavailableError, match="needs ninja, a C\\+\\+ compiler"):
        torchac.load_backend()


def test_signals_to_all_processes_of_a_run_do_not_end_its_compilers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from torch.utils import cpp_extension

    blocked: list[set[signal.Signals]] = []

    def build(*_: object, **__: object) -> object:
        blocked.append(set(signal.pthread_sigmask(signal.SIG_BLOCK, [])))
        return object()

    monkeypatch.setattr(torchac, "_backend_module", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cpp_extension, "load", build)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    torchac.load_backend()
    assert blocked[0] >= {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1}
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


def test_the_lock_of_a_killed_build_is_removed(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    with torchac._exclusive(tmp_path):
        assert not (tmp_path / "lock").exists()
