"""The alternative coder: the same integer CDFs as 16-bit tables through torchac's C++ backend.

torchac (github.com/fab-jul/torchac) needs one table of N + 1 entries for every symbol, so this coder builds
in full what the range coder only samples, and serves planes of up to 4096 levels. A stream is one call and
channel, at most ``MAX_TABLE_ENTRIES`` table entries long, behind its length in LEB128;
``docs/format/entropy.md`` has the layout.

torchac compiles its backend with torch when it is first used. ``import torchac`` would do so with compiler
output on the terminal, and would wait forever on the lock of a build that was killed. So the backend is built
here, from the installed package's source, in a directory of this program's own and under a lock that dies
with its process.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from callic_archive.entropy import kernels
from callic_archive.entropy.kernels import I32, U16
from callic_archive.entropy.mixture import (
    MixtureTables,
    PixelParameters,
    check_parameters,
    check_symbols,
)
from callic_archive.errors import (
    EntropyInputError,
    StreamCorruptError,
    StreamTrailingError,
    StreamTruncatedError,
    TorchacLevelsError,
    TorchacUnavailableError,
)

MAX_LEVELS = 1 << 12
MAX_TABLE_ENTRIES = (
    1 << 22
)  # of one stream: 8 MiB of tables, far below the 2^31 that torchac's int offsets allow

_backend_module: Any = None


# -- loading the backend ----------------------------------------------------------------------------


@contextmanager
def _exclusive(directory: Path) -> Iterator[None]:
    """Hold ``directory`` against other processes of this program where the system has flock."""
    try:
        import fcntl
    except ImportError:  # Windows: torch's own lock file is all there is, so nothing is removed
        yield
        return
    with open(directory / "callic.lock", "w", encoding="utf-8") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        # We hold the directory, so torch's lock file, if there is one, was left by a process that was killed.
        (directory / "lock").unlink(missing_ok=True)
        yield


@contextmanager
def _ninja_on_path() -> Iterator[None]:
    """Let torch find the ninja of the Python environment also when that environment is not activated."""
    path = os.environ.get("PATH", "")
    spec = importlib.util.find_spec("ninja") if shutil.which("ninja") is None else None
    if spec is None:
        yield
        return
    os.environ["PATH"] = os.pathsep.join([path, importlib.import_module("ninja").BIN_DIR])
    try:
        yield
    finally:
        os.environ["PATH"] = path


@contextmanager
def _signals_kept_from_children() -> Iterator[None]:
    """Keep signals that end a run from compilers: they go to all its processes, and a compiler that they ended would
    look like one that fails. What a thread has blocked, processes that it starts inherit.
    """
    asked = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, asked)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _build_directory() -> Path:
    import torch

    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    version = f"py{sys.version_info.major}{sys.version_info.minor}-torch{torch.__version__}"
    return root / "callic-archive" / f"torchac-{version}"


def load_backend() -> Any:
    """torchac's compiled C++ backend; the very first call on a machine takes a minute.

    Raises TorchacUnavailableError, which says what is missing: torchac, torch, ninja, a C++ compiler, or a
    place to build.
    """
    global _backend_module
    if _backend_module is not None:
        return _backend_module
    spec = importlib.util.find_spec("torchac")  # finds without importing: the import would compile
    if spec is None or spec.origin is None:
        raise TorchacUnavailableError("The torchac coder needs two packages: pip install torchac ninja.")
    source = Path(spec.origin).parent / "backend" / "torchac_backend.cpp"
    if not source.is_file():
        raise TorchacUnavailableError(f"The installed torchac lacks its C++ source {source}.")
    try:
        from torch.utils import cpp_extension
    except ImportError as error:
        raise TorchacUnavailableError("The torchac coder needs torch, which cannot be imported.") from error
    try:
        directory = _build_directory()
        directory.mkdir(parents=True, exist_ok=True)
        with _exclusive(directory), _ninja_on_path(), _signals_kept_from_children():
            _backend_module = cpp_extension.load(
                "torchac_backend", [str(source)], build_directory=str(directory), verbose=False
            )
    except (RuntimeError, OSError, ImportError) as error:
        reason = str(error).strip().splitlines()
        raise TorchacUnavailableError(
            "The torchac coder could not be compiled: it needs ninja, a C++ compiler (CXX names another), a "
            "writable cache directory (XDG_CACHE_HOME). The range coder needs none of them. Reason: "
            f"{reason[0] if reason else type(error).__name__}"
        ) from error
    return _backend_module


# -- tables in, bytes out -----------------------------------------------------------------------------


def _check_rows(cdf: npt.NDArray[np.integer]) -> U16:
    if cdf.ndim != 2 or cdf.shape[1] < 3 or cdf.shape[1] > MAX_LEVELS + 1 or cdf.size > 1 << 30:
        raise EntropyInputError(f"CDF rows are (n, N + 1), 2 <= N <= {MAX_LEVELS}, not {cdf.shape}.")
    inner = cdf[:, :-1]
    if cdf.dtype != np.uint16:
        if np.any(cdf < 0) or np.any(inner > 65535) or np.any((cdf[:, -1] != 65536) & (cdf[:, -1] != 0)):
            raise EntropyInputError("CDF rows must rise from 0 to 2^16, or to 0 in its place.")
        cdf = cdf.astype(np.uint16)  # 2^16 wraps to 0, as torchac expects
    rows: U16 = np.ascontiguousarray(cdf, np.uint16)
    if np.any(rows[:, 0] != 0) or np.any(rows[:, -1] != 0) or np.any(rows[:, 1:-1] <= rows[:, :-2]):
        raise EntropyInputError("CDF rows must rise strictly from 0 to 2^16.")
    return rows


def _tensor(array: npt.NDArray[Any]) -> Any:
    import torch

    return torch.from_numpy(array.view(np.int16))


def _encode(rows: U16, symbols: npt.NDArray[np.integer]) -> bytes:
    short = np.ascontiguousarray(symbols, np.int16)
    return bytes(load_backend().encode_cdf(_tensor(rows), _tensor(short)))


def _decode(rows: U16, stream: bytes) -> I32:
    """Symbols of one stream; torchac itself pads a short one with zeros and ignores the end of a long one."""
    symbols: npt.NDArray[np.int16] = load_backend().decode_cdf(_tensor(rows), stream).numpy()
    # So they are coded again, and only the one stream that an encoder writes is accepted.
    again = _encode(rows, symbols)
    if again != stream:
        if len(again) < len(stream):
            raise StreamTrailingError("A torchac stream goes on after its last symbol.")
        raise StreamCorruptError("A torchac stream is not one that an encoder writes.")
    return symbols.astype(np.int32)


def encode_step(cdf: npt.NDArray[np.integer], symbols: npt.NDArray[np.integer]) -> bytes:
    """Code ``symbols`` (n,), 0 <= symbol < N, under the rows ``cdf`` (n, N + 1) as one torchac stream.

    Each row rises strictly from 0 to 2^16 (or 0 in its place, as uint16 wraps). torchac itself checks neither
    rows nor symbols and codes garbage; here both raise EntropyInputError.
    """
    rows = _check_rows(cdf)
    if symbols.shape != (rows.shape[0],) or symbols.dtype.kind not in "iu":
        raise EntropyInputError(f"Symbols must be ({rows.shape[0]},) integers, not {symbols.shape}.")
    if np.any(symbols < 0) or np.any(symbols > rows.shape[1] - 2):
        raise EntropyInputError("A symbol lies outside its table.")
    return _encode(rows, symbols)


def decode_step(cdf: npt.NDArray[np.integer], stream: bytes) -> I32:
    """The symbols (n,) of one stream; the mirror of :func:`encode_step`.

    Raises StreamCorruptError or StreamTrailingError.
    """
    return _decode(_check_rows(cdf), bytes(stream))


# -- pixels -----------------------------------------------------------------------------------------


def _check_levels(p: PixelParameters) -> None:
    levels = int((p.hi - p.lo).max()) + 1
    if levels > MAX_LEVELS:
        raise TorchacLevelsError(
            f"The torchac coder takes planes of up to {MAX_LEVELS} levels (12 bits), not {levels}; "
            "use the range coder."
        )


def _tables_of(p: PixelParameters, tables: MixtureTables, symbols: I32, channel: int, part: slice) -> U16:
    levels = int(p.hi[channel] - p.lo[channel]) + 1
    rows = np.empty((part.stop - part.start, levels + 1), np.uint16)
    status = kernels.channel_tables(
        p.head[part], p.skip[part], p.shift, p.lo, p.hi,
        tables.exp, tables.inv_mantissa, tables.sigmoid, symbols[part], channel, rows,
    )  # fmt: skip
    if status != kernels.OK:
        raise EntropyInputError("A symbol lies outside its channel's value range.")
    return rows


def _streams(p: PixelParameters) -> Iterator[tuple[int, slice]]:
    """(channel, rows) of each stream of one call, in coding order. A channel of one level has none."""
    for channel in range(p.layout.channels):
        levels = int(p.hi[channel] - p.lo[channel]) + 1
        if levels > 1:
            rows = MAX_TABLE_ENTRIES // (levels + 1)
            for start in range(0, p.n, rows):
                yield channel, slice(start, min(start + rows, p.n))


class TorchacEncoder:
    """Collects pixels into one byte string: the call shapes of RangeEncoder, without plain symbols."""

    def __init__(self) -> None:
        self._out = bytearray()

    def encode_pixels(
        self,
        head: npt.NDArray[np.integer],
        skip: npt.NDArray[np.integer],
        shift: npt.ArrayLike,
        lo: npt.ArrayLike,
        hi: npt.ArrayLike,
        tables: MixtureTables,
        symbols: npt.NDArray[np.integer],
    ) -> None:
        """Code ``symbols`` (n, C) int32, channel by channel.

        Raises EntropyInputError and TorchacLevelsError.
        """
        p = check_parameters(head, skip, shift, lo, hi)
        _check_levels(p)
        values = check_symbols(symbols, p.n, p.layout.channels)
        if np.any(values < p.lo) or np.any(values > p.hi):
            raise EntropyInputError("A symbol lies outside its channel's value range.")
        for channel, part in _streams(p):
            rows = _tables_of(p, tables, values, channel, part)
            stream = _encode(rows, values[part, channel] - p.lo[channel])
            self._out += _leb128(len(stream)) + stream

    def finish(self) -> bytes:
        """The streams of all calls, in order."""
        return bytes(self._out)


class TorchacDecoder:
    """Reads the pixels of one byte string back, call by call."""

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self._data = bytes(data)
        self._position = 0

    def decode_pixels(
        self,
        head: npt.NDArray[np.integer],
        skip: npt.NDArray[np.integer],
        shift: npt.ArrayLike,
        lo: npt.ArrayLike,
        hi: npt.ArrayLike,
        tables: MixtureTables,
    ) -> I32:
        """Decode (n, C) int32 symbols; the mirror of :meth:`TorchacEncoder.encode_pixels`.

        Raises StreamTruncatedError, StreamTrailingError, StreamCorruptError, TorchacLevelsError.
        """
        p = check_parameters(head, skip, shift, lo, hi)
        _check_levels(p)
        symbols = np.empty((p.n, p.layout.channels), np.int32)
        symbols[:] = p.lo
        for channel, part in _streams(p):
            rows = _tables_of(p, tables, symbols, channel, part)
            symbols[part, channel] = _decode(rows, self._take()) + p.lo[channel]
        return symbols

    def _take(self) -> bytes:
        length, start = _read_leb128(self._data, self._position)
        if length > len(self._data) - start:
            raise StreamTruncatedError("A torchac stream is longer than the bytes that are left.")
        self._position = start + length
        return self._data[start : self._position]

    def finish(self) -> None:
        """Check that every stream was read. Raises StreamTrailingError."""
        if self._position != len(self._data):
            raise StreamTrailingError("Bytes follow the last torchac stream.")


def _leb128(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_leb128(data: bytes, position: int) -> tuple[int, int]:
    """(value, next position); at most five bytes, and no more of them than the value needs."""
    value = 0
    for i in range(5):
        if position + i >= len(data):
            raise StreamTruncatedError("The bytes end inside the length of a torchac stream.")
        byte = data[position + i]
        value |= (byte & 127) << 7 * i
        if byte < 128:
            if byte == 0 and i > 0:
                raise StreamCorruptError("The length of a torchac stream is not in its shortest form.")
            return value, position + i + 1
    raise StreamCorruptError("The length of a torchac stream is not a LEB128 number of 32 bits.")
