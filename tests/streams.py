"""Deflate streams as compressors write them, and as no compressor would: made by chance, with fixed codes."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterator

import imagecodecs

_BASES = [
    3,
    4,
    5,
    6,
    7,
    8,
    9,
    10,
    11,
    13,
    15,
    17,
    19,
    23,
    27,
    31,
    35,
    43,
    51,
    59,
    67,
    83,
    99,
    115,
    131,
    163,
    195,
    227,
    258,
]
_EXTRA = [0] * 8 + [1] * 4 + [2] * 4 + [3] * 4 + [4] * 4 + [5] * 4 + [0]


class Bits:
    """Bits in the order of RFC 1951."""

    def __init__(self) -> None:
        self.value = self.count = 0

    def put(self, value: int, bits: int) -> None:
        self.value |= value << self.count
        self.count += bits

    def code(self, value: int, bits: int) -> None:
        """A Huffman code: highest bit first."""
        self.put(int(format(value, f"0{bits}b")[::-1], 2), bits)

    def done(self) -> bytes:
        return self.value.to_bytes((self.count + 7) // 8, "little")


def _literal(out: Bits, symbol: int) -> None:
    if symbol < 144:
        out.code(0x30 + symbol, 8)
    elif symbol < 256:
        out.code(0x190 + symbol - 144, 9)
    elif symbol < 280:
        out.code(symbol - 256, 7)
    else:
        out.code(0xC0 + symbol - 280, 8)


def _match(out: Bits, length: int, distance: int, long_form: bool) -> None:
    symbol = max(i for i, base in enumerate(_BASES) if base <= length)
    if long_form and length == 258:
        symbol = 27
    _literal(out, 257 + symbol)
    out.put(length - _BASES[symbol], _EXTRA[symbol])
    base, symbol = 1, 0
    while True:
        bits = max(0, symbol // 2 - 1)
        if distance < base + (1 << bits):
            break
        base, symbol = base + (1 << bits), symbol + 1
    out.code(symbol, 5)
    out.put(distance - base, bits)


def capricious(raw: bytes, seed: int, stored: float = 0.2) -> bytes:
    """A valid raw deflate stream of ``raw`` in which every choice is left to chance: padding, empty and stored blocks too."""
    rng, out, at = random.Random(seed), Bits(), 0
    while True:
        final = at == len(raw) and rng.random() < 0.5
        out.put(final, 1)
        if rng.random() < stored:
            out.put(0, 2)
            out.put(rng.randrange(128) & ((1 << (-out.count % 8)) - 1), -out.count % 8)
            size = min(rng.randrange(80), len(raw) - at)
            out.put(size | (size ^ 0xFFFF) << 16, 32)
            for value in raw[at : at + size]:
                out.put(value, 8)
            at += size
        else:
            out.put(1, 2)
            for _ in range(rng.randrange(60)):
                if at == len(raw):
                    break
                distance = rng.randint(1, min(max(at, 1), 32768))
                length = 0
                while (
                    at
                    and length < 258
                    and at + length < len(raw)
                    and raw[at + length] == raw[at + length - distance]
                ):
                    length += 1
                if length >= 3 and rng.random() < 0.8:
                    length = rng.randint(3, length)
                    _match(out, length, distance, rng.random() < 0.5)
                    at += length
                else:
                    _literal(out, raw[at])
                    at += 1
            _literal(out, 256)
        if final:
            out.put(rng.randrange(128) & ((1 << (-out.count % 8)) - 1), -out.count % 8)
            return out.done()


def deflated(raw: bytes, level: int = 6, memory: int = 8, strategy: int = 0, window: int = 15) -> bytes:
    """A raw deflate stream of zlib's."""
    engine = zlib.compressobj(level, zlib.DEFLATED, -window, memory, strategy)
    return engine.compress(raw) + engine.flush()


def flushed(raw: bytes, points: list[int], kind: int = zlib.Z_SYNC_FLUSH, level: int = 6) -> bytes:
    """A raw deflate stream that was flushed at these places."""
    engine, parts, start = zlib.compressobj(level, zlib.DEFLATED, -15), [], 0
    for point in sorted(points):
        parts += [engine.compress(raw[start:point]), engine.flush(kind)]
        start = max(start, point)
    return b"".join([*parts, engine.compress(raw[start:]), engine.flush()])


COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    **{f"zlib {n}": lambda raw, n=n: deflated(raw, n) for n in range(10)},  # type: ignore[misc]
    "zlib, memory 9": lambda raw: deflated(raw, 6, 9),
    "zlib, memory 1": lambda raw: deflated(raw, 6, 1),
    "zlib, filtered": lambda raw: deflated(raw, 9, 8, 1),
    "zlib, Huffman only": lambda raw: deflated(raw, 6, 8, 2),
    "zlib, runs": lambda raw: deflated(raw, 6, 8, 3),
    "zlib, fixed": lambda raw: deflated(raw, 6, 8, 4),
    "zlib, small window": lambda raw: deflated(raw, 9, 8, 0, 10),
    "partial flushes": lambda raw: flushed(raw, list(range(0, len(raw), 700)), zlib.Z_PARTIAL_FLUSH),
    "sync flushes": lambda raw: flushed(raw, list(range(0, len(raw), 999))),
    "full flushes": lambda raw: flushed(raw, list(range(0, len(raw), 1500)), zlib.Z_FULL_FLUSH, 1),
    **{
        f"libdeflate {n}": lambda raw, n=n: bytes(imagecodecs.deflate_encode(raw, level=n, raw=True))  # type: ignore[misc]
        for n in (1, 6, 9, 12)
    },
    "zopfli": lambda raw: bytes(imagecodecs.zopfli_encode(raw))[2:-4],
    **{
        f"zlib-ng {n}": lambda raw, n=n: bytes(imagecodecs.zlibng_encode(raw, level=n))[2:-4]  # type: ignore[misc]
        for n in (1, 6)
    },
    "chance": lambda raw: capricious(raw, 7),
}


def samples() -> Iterator[tuple[str, bytes]]:
    """Raw bytes of several kinds, each with its name."""
    rng = random.Random(5)
    words = [bytes(rng.randrange(97, 123) for _ in range(rng.randint(2, 9))) for _ in range(300)]
    yield "nothing", b""
    yield "one byte", b"x"
    yield "noise", rng.randbytes(5000)
    yield "few values", bytes(rng.choice(b"aaab") for _ in range(20000))
    yield "zeros", bytes(70000)
    yield "words", b" ".join(rng.choice(words) for _ in range(12000))
    yield "a ramp", bytes((i * i // 700 + rng.randrange(3)) & 255 for i in range(40000))
