"""How archives carry a model file: filtered array by array, in one xz stream (docs/format/container.md).

Tables are smooth and biases wide: differences of their words, signs beside the magnitude, and the bytes of a word apart from
each other, take a fraction of what the words as they are do. What is left are weights, nearly random numbers about zero: xz codes
them by adaptive probabilities, in fewer bytes than any code of whole bits (decision 0035). The header names where each array
lies, which follows from their lengths, so these numbers are left out. So are tables that follow from a formula (``formulas``).
"""

from __future__ import annotations

import json
import lzma
import re
import struct
from collections.abc import Sequence
from contextlib import suppress
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

from callic_archive.model import formulas

SUFFIX = ".model.xz"
MOST_DIFFERENCES, MOST_PIECES = 3, 1 << 16
_COUNT, _PIECE = struct.Struct("<I"), struct.Struct("<IBB")  # pieces; of each bytes, width of a word, differences
#: Widths that mark a header without its offsets, and an array by the formula whose number its order is.
HEADER, FORMULA = 0, 3
#: Offsets as they stand in a header, and as they are left out.
_OFFSETS, _NO_OFFSETS = re.compile(rb'"data_offsets":\[[0-9]+,[0-9]+\]'), b'"data_offsets":[]'
_BY_NAME = {
    "compand": formulas.COMPAND, "mixture.exp": formulas.EXP, "mixture.inv_mantissa": formulas.INVERSE,
    "mixture.sigmoid": formulas.SIGMOID,
}  # fmt: skip
#: Tables of activations: their formula, and of which numbers they are.
_ACTIVATIONS = {"swish": (formulas.SWISH, "dw"), "gelu": (formulas.GELU, "up")}
_WORDS = {1: "<u1", 2: "<u2", 4: "<u4", 8: "<u8"}
_WIDTHS = {"I8": 1, "U8": 1, "I16": 2, "U16": 2, "I32": 4, "U32": 4, "I64": 8, "U64": 8}
#: What unpacking may take besides the model: more than any window that is written here needs.
MEMORY = 128 << 20
_WINDOW_LEAST, _WINDOW_MOST = 4096, 64 << 20


def pack_model(raw: bytes) -> bytes:
    """The stream of a model file: of any bytes, and smaller where they are a safetensors file of integers."""
    bounds, widths = _arrays(raw)
    told = _formulas(raw, bounds)
    pieces = []
    for number, (start, end) in enumerate(pairwise(bounds)):
        formula = told.get(number)
        if formula is not None and formulas.table(*formula) == raw[start:end]:
            pieces.append((formula[1], formula[0]))
            widths[number] = FORMULA
        else:
            pieces.append(_smallest(raw[start:end], widths[number]))
    lengths = [end - start for start, end in pairwise(bounds)]
    header = _OFFSETS.sub(_NO_OFFSETS, raw[: bounds[1]])
    with suppress(ValueError):
        if len(header) < lengths[0] and _with_offsets(header, lengths[1:]) == raw[: bounds[1]]:
            pieces[0], widths[0] = (_filtered(header, 1, 0), 0), HEADER
    table = _COUNT.pack(len(pieces)) + b"".join(
        _PIECE.pack(len(data), width, order) for (data, order), width in zip(pieces, widths, strict=True)
    )
    return _compressed(table + b"".join(data for data, _ in pieces))


def _compressed(content: bytes) -> bytes:
    """No context of bytes before or of the position: what is a weight is told by nothing."""
    window = min(max(len(content), _WINDOW_LEAST), _WINDOW_MOST)
    code = {"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": window, "lc": 0, "lp": 0, "pb": 0}
    return lzma.compress(content, lzma.FORMAT_XZ, lzma.CHECK_CRC32, filters=[code])


def unpack_model(packed: bytes, most: int) -> bytes:
    """The model file of at most ``most`` bytes. Raises ValueError for what is no packed model, or a larger one."""
    stream = lzma.LZMADecompressor(lzma.FORMAT_XZ, MEMORY)
    largest = most + _COUNT.size + MOST_PIECES * _PIECE.size
    try:
        content = stream.decompress(packed, largest)
    except lzma.LZMAError as error:
        raise ValueError(f"it is not a whole xz stream: {error}") from error
    if len(content) == largest and not stream.eof:
        raise ValueError(f"it holds more than a model of at most {most} bytes")
    if not stream.eof or stream.unused_data:
        raise ValueError("it is not exactly one whole xz stream")
    try:
        (count,) = _COUNT.unpack_from(content)
        at = _COUNT.size + count * _PIECE.size
        if count > MOST_PIECES or at > len(content):
            raise ValueError("its table of pieces is too long or not whole")
        table = [_PIECE.unpack_from(content, _COUNT.size + i * _PIECE.size) for i in range(count)]
    except struct.error as error:
        raise ValueError("its table of pieces is not whole") from error
    if at + sum(length for length, _, _ in table) != len(content):
        raise ValueError("its pieces are not as long as its table says")
    if sum(length for length, _, _ in table) > most:
        raise ValueError(f"it holds more than a model of at most {most} bytes")
    found, size = [], 0
    for number, (length, width, order) in enumerate(table):
        header = width == HEADER and number == 0 and order == 0
        if width == FORMULA:
            found.append(formulas.table(order, content[at : at + length]))
        elif not header and (width not in _WORDS or length % width or order > MOST_DIFFERENCES):
            raise ValueError("its table of pieces is invalid")
        else:
            found.append(_unfiltered(content[at : at + length], width or 1, order))
        at += length
        size += len(found[-1])
        if size > most:
            raise ValueError(f"it holds more than a model of at most {most} bytes")
    if table and table[0][1] == HEADER:
        found[0] = _with_offsets(found[0], list(map(len, found[1:])))
        if sum(map(len, found)) > most:
            raise ValueError(f"it holds more than a model of at most {most} bytes")
    return b"".join(found)


def _formulas(raw: bytes, bounds: Sequence[int]) -> dict[int, tuple[int, bytes]]:
    """Number of a piece to the formula that may make it, by the name of the array and what the header tells of activations."""
    try:
        header = json.loads(raw[8 : bounds[1]])
        document = json.loads(header["__metadata__"]["callic"])
        dim, fractions = document["config"]["dim"], document["fractions"]
        names = sorted((name for name in header if name != "__metadata__"), key=lambda n: header[n]["data_offsets"])
        found = {}
        for number, name in enumerate(names, 1):
            block, _, part = name.partition(".")
            if name in _BY_NAME:
                found[number] = _BY_NAME[name], b""
            elif name == "rsqrt":
                found[number] = formulas.RSQRT, struct.pack("<H", dim)
            elif part in _ACTIVATIONS:
                kind, fed_by = _ACTIVATIONS[part]
                found[number] = kind, bytes([fractions[block][fed_by], fractions[block][part]])
        for formula in found.values():
            formulas.table(*formula)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, struct.error):
        return {}
    return found


def _with_offsets(header: bytes, lengths: Sequence[int]) -> bytes:
    """A header with the offsets of arrays of these lengths, one after the other in the order that the header names them in."""
    bounds = [0, *accumulate(lengths)]
    parts = header.split(_NO_OFFSETS)
    if len(parts) != len(bounds):
        raise ValueError("its header names another number of arrays than it has")
    told = [b'"data_offsets":[%d,%d]' % pair for pair in pairwise(bounds)]
    return b"".join(one for pair in zip(parts, [*told, b""], strict=True) for one in pair)


def _arrays(raw: bytes) -> tuple[list[int], list[int]]:
    """Where the header and the arrays of a safetensors file begin and end, and bytes a word of each; else one piece."""
    try:
        begin = 8 + int.from_bytes(raw[:8], "little")
        header = json.loads(raw[8:begin])
        told = sorted((*array["data_offsets"], array["dtype"]) for name, array in header.items() if name != "__metadata__")
        if len(told) >= MOST_PIECES:
            raise ValueError("more arrays than pieces")
        bounds = [0, begin, *(begin + end for _, end, _ in told)]
        starts = [begin + start for start, _, _ in told]
        if starts != bounds[1:-1] or bounds[-1] != len(raw):
            raise ValueError("arrays do not lie one after the other")
        widths = [1, *(_WIDTHS.get(dtype, 1) for _, _, dtype in told)]
        if any((end - start) % width for (start, end), width in zip(pairwise(bounds), widths, strict=True)):
            raise ValueError("an array ends within a word")
        return bounds, widths
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return [0, len(raw)], [1]


def _smallest(data: bytes, width: int) -> tuple[bytes, int]:
    """The piece by the differences that make it smallest, and how many. Single bytes are weights, which have no order."""
    tried = [(_filtered(data, width, order), order) for order in range(MOST_DIFFERENCES + 1 if width > 1 else 1)]
    return min(tried, key=lambda one: len(_compressed(one[0])))


def _filtered(data: bytes, width: int, order: int) -> bytes:
    words = np.frombuffer(data, _WORDS[width])
    for _ in range(order):
        words = np.diff(words, prepend=words.dtype.type(0))
    negative = words >> (8 * width - 1)
    return _bytes_of((words << 1) ^ (0 - negative), width).T.tobytes()


def _unfiltered(data: bytes, width: int, order: int) -> bytes:
    planes = np.frombuffer(data, np.uint8).reshape(width, len(data) // width)
    words = np.ascontiguousarray(planes.T).view(_WORDS[width])[:, 0] if len(data) else np.zeros(0, _WORDS[width])
    words = (words >> 1) ^ (0 - (words & 1))
    for _ in range(order):
        words = np.cumsum(words, dtype=words.dtype)
    return words.astype(_WORDS[width], copy=False).tobytes()


def _bytes_of(words: NDArray[np.integer], width: int) -> NDArray[np.uint8]:
    return np.ascontiguousarray(words).view(np.uint8).reshape(-1, width)
