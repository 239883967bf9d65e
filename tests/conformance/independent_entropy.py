"""Entropy coding by docs/format/entropy.md, in Python integers: part of the independent decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

ONE = 1 << 28


class Reject(Exception):
    """The data breaks the specification; ``code`` is the error code that its page gives."""

    def __init__(self, code: str, why: str) -> None:
        super().__init__(f"{code}: {why}")
        self.code = code


def reject(code: str, why: str) -> NoReturn:
    raise Reject(code, why)


def need(condition: bool, code: str, why: str) -> None:
    if not condition:
        reject(code, why)


# -- distributions (entropy.md, sections 2 and 3) -------------------------------------------------------


@dataclass(frozen=True)
class Tables:
    exp: list[int]
    inv: list[int]
    sig: list[int]


def mixture_tables(arrays: Mapping[str, NDArray[np.int64]]) -> Tables:
    """The tables of a model file, checked."""
    try:
        e, n, s = (arrays[f"mixture.{k}"].tolist() for k in ("exp", "inv_mantissa", "sigmoid"))
    except KeyError:
        reject("E214", "missing")
    falls = e[0] == 65536 and e[-1] == 0 and all(x >= y for x, y in pairwise(e))
    strictly = all(x > y for x, y in pairwise(n))
    need(len(e) > 1 and falls, "E214", "EXP")
    need(len(n) == 32 and n[0] == 65536 and n[-1] > 32768 and strictly, "E214", "INV")
    rises = all(x <= y for x, y in pairwise(s))
    need(len(s) == 1282 and s[0] == 0 and s[-2] == s[-1] == ONE and rises, "E214", "SIG")
    return Tables(e, n, s)


def clip(v: int, least: int, most: int) -> int:
    return min(max(v, least), most)


class Mixture:
    """The distribution of one pixel. ``sigs`` and ``cdf`` speak of channel ``len(self.x)``."""

    def __init__(
        self, row: Sequence[int], skip: Sequence[int], shift: int, lo: Sequence[int], hi: Sequence[int],
        tables: Tables,
    ) -> None:  # fmt: skip
        self.c = len(skip)
        self.k = len(row) // (1 + 2 * self.c + self.c * (self.c - 1) // 2)
        self.row, self.skip, self.s, self.lo, self.hi, self.tables = row, skip, shift, lo, hi, tables
        logits = row[: self.k]
        best = logits.index(max(logits))
        w = [tables.exp[min(logits[best] - v, len(tables.exp) - 1)] for v in logits]
        self.pi = [(v << 16) // sum(w) for v in w]
        self.pi[best] += 65536 - sum(self.pi)
        self.x: list[int] = []
        self.mu = [self.means()]

    def means(self) -> list[int]:
        c, k, found = len(self.x), self.k, []
        for n in range(k):
            mu = clip(self.skip[c], -(1 << 26), 1 << 26) + (self.row[k + c * k + n] << self.s)
            for j in range(c):
                coefficient = self.row[k * (1 + 2 * self.c) + (c * (c - 1) // 2 + j) * k + n]
                mu += (clip(coefficient, -1023, 1023) * (256 * self.x[j] - self.mu[j][n]) + 128) >> 8
            found.append(clip(mu, -(1 << 26), 1 << 26))
        return found

    def sigs(self, x: int) -> list[int]:
        c, k, found = len(self.x), self.k, []
        if x <= self.lo[c] or x > self.hi[c]:
            return [0 if x <= self.lo[c] else ONE] * k
        for n in range(k):
            z = clip(self.row[k * (1 + self.c) + c * k + n], -256, 383)
            t = ((256 * x - 128 - self.mu[c][n]) * (self.tables.inv[z & 31] << 4)) >> ((z >> 5) + 8 + self.s)
            i, r = divmod(clip(t, -20 << 20, 20 << 20) + (20 << 20), 32768)
            below, above = self.tables.sig[i], self.tables.sig[i + 1]
            found.append(below + (((above - below) * r) >> 15))
        return found

    def cdf(self, x: int) -> int:
        c = len(self.x)
        if x <= self.lo[c] or x > self.hi[c]:
            return 0 if x <= self.lo[c] else ONE
        mass = sum(p * s for p, s in zip(self.pi, self.sigs(x), strict=True)) >> 16
        return ((mass * (ONE - (self.hi[c] - self.lo[c] + 1))) >> 28) + (x - self.lo[c])

    def accept(self, x: int) -> None:
        c = len(self.x)
        if self.lo[c] < self.hi[c] and c + 1 < self.c:
            own = [b - a + 1 for a, b in zip(self.sigs(x), self.sigs(x + 1), strict=True)]
            q = [p * v for p, v in zip(self.pi, own, strict=True)]
            self.pi = [(v << 16) // sum(q) for v in q]
            self.pi[self.pi.index(max(self.pi))] += 65536 - sum(self.pi)
        self.x.append(x)
        if c + 1 < self.c:
            self.mu.append(self.means())


# -- the range coder (entropy.md, section 4) ------------------------------------------------------------


class RangeDecoder:
    def __init__(self, data: bytes) -> None:
        self.data, self.shifts, self.range = data, 0, (1 << 64) - 1
        self.code = int.from_bytes(data[:8].ljust(8, b"\0"), "big")

    def target(self) -> int:
        target = self.code // (self.range >> 28)
        need(target < ONE, "E213", "beyond all intervals")
        return target

    def take(self, cum: int, freq: int) -> None:
        step = self.range >> 28
        self.code -= step * cum
        self.range = step * freq
        while self.range < 1 << 56:
            at = 8 + self.shifts
            self.code = self.code << 8 | (self.data[at] if at < len(self.data) else 0)
            self.range <<= 8
            self.shifts += 1
            need(self.shifts <= len(self.data), "E211", "stream ends before its last symbol")

    def finish(self) -> None:
        left = len(self.data) - self.shifts
        if left == 0:
            return
        low = ((self.data[-1] << 56) - self.code) % (1 << 64) if left == 1 else 0
        ends = left == 1 and self.code < 1 << 56 and low != 0 and low + self.range <= 1 << 64
        need(ends, "E212", "stream goes on")


def decode_pixel(decoder: RangeDecoder, template: Mixture) -> list[int]:
    """One pixel from the range coder."""
    pixel = Mixture(template.row, template.skip, template.s, template.lo, template.hi, template.tables)
    for c in range(pixel.c):
        a, b = pixel.lo[c], pixel.hi[c] + 1  # cdf(a) <= target < cdf(b)
        if b - a > 1:
            target = decoder.target()
            while b - a > 1:
                middle = (a + b) // 2
                a, b = (middle, b) if pixel.cdf(middle) <= target else (a, middle)
            below = pixel.cdf(a)
            decoder.take(below, pixel.cdf(a + 1) - below)
        pixel.accept(a)
    return pixel.x


# -- torchac (entropy.md, section 7) --------------------------------------------------------------------


class TorchacDecoder:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def stream(self) -> bytes:
        length = 0
        for n in range(5):
            need(self.at < len(self.data), "E211", "length cut off")
            byte = self.data[self.at]
            self.at += 1
            length |= (byte & 127) << 7 * n
            if byte < 128:
                need(byte > 0 or n == 0, "E213", "length not in its shortest form")
                break
        else:
            reject("E213", "length above five bytes")
        need(length <= len(self.data) - self.at, "E211", "stream cut off")
        self.at += length
        return self.data[self.at - length : self.at]

    def finish(self) -> None:
        need(self.at == len(self.data), "E212", "bytes after the last stream")


def torchac_group(decoder: TorchacDecoder, pixels: Sequence[Mixture]) -> list[list[int]]:
    """The pixels of one call, channel after channel."""
    for c in range(pixels[0].c):
        n = pixels[0].hi[c] - pixels[0].lo[c] + 1
        need(n <= 4096, "E215", "too many levels")
    for c in range(pixels[0].c):
        lo, n = pixels[0].lo[c], pixels[0].hi[c] - pixels[0].lo[c] + 1
        run = (1 << 22) // (n + 1)
        for first in range(0, len(pixels), run):
            part = pixels[first : first + run]
            if n == 1:
                symbols = [0] * len(part)
            else:
                tables = [[((p.cdf(lo + v) * (65536 - n)) >> 28) + v for v in range(n + 1)] for p in part]
                symbols = torchac_stream(decoder.stream(), tables)
            for p, s in zip(part, symbols, strict=True):
                p.accept(lo + s)
    return [p.x for p in pixels]


def torchac_stream(data: bytes, tables: Sequence[Sequence[int]]) -> list[int]:
    bits = "".join(f"{b:08b}" for b in data) + "0" * 64
    at, low, high, value = 32, 0, (1 << 32) - 1, int(bits[:32], 2)
    written, pending, symbols = "", 0, []
    for table in tables:
        span = high - low + 1
        target = ((value - low + 1) * 65536 - 1) // span
        s = max(v for v in range(len(table) - 1) if table[v] <= target)
        symbols.append(s)
        low, high = low + ((span * table[s]) >> 16), low - 1 + ((span * table[s + 1]) >> 16)
        while True:
            if high < 1 << 31 or low >= 1 << 31:
                top = "1" if low >= 1 << 31 else "0"
                written += top + ("0" if top == "1" else "1") * pending
                pending, half = 0, (1 << 31) if top == "1" else 0
                low, high, value = low - half, high - half, value - half
            elif low >= 1 << 30 and high < 3 << 30:
                pending += 1
                low, high, value = low - (1 << 30), high - (1 << 30), value - (1 << 30)
            else:
                break
            low, high, at = 2 * low, 2 * high + 1, at + 1
            value = 2 * value + (bits[at - 1] == "1" if at <= len(bits) else 0)
    last = "0" if low < 1 << 30 else "1"
    written += last + ("1" if last == "0" else "0") * (pending + 1)
    written += "0" * (-len(written) % 8)
    again = int(written, 2).to_bytes(len(written) // 8, "big")
    need(len(again) >= len(data), "E212", "stream goes on")
    need(again == data, "E213", "not what its symbols code to")
    return symbols
