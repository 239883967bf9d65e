"""A second decoder and a second CDF in plain Python integers, written from ``docs/format/entropy.md`` alone.

Nothing here imports the package: integers have no width, so an overflow of the compiled code would show.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

ONE = 1 << 28


@dataclass(frozen=True)
class Tables:
    """The three tables as lists of int."""

    exp: Sequence[int]
    inv: Sequence[int]
    sigmoid: Sequence[int]


def lcg(seed: int) -> Iterator[int]:
    """Endless 31-bit numbers that no library version can change (multiplier of glibc's rand)."""
    state = seed
    while True:
        state = (state * 1103515245 + 12345) % (1 << 31)
        yield state >> 3


def bounded(value: int, least: int, most: int) -> int:
    return least if value < least else most if value > most else value


def share_out(numerators: Sequence[int], rest_to: int | None = None) -> list[int]:
    total = sum(numerators)
    shares = [v * 65536 // total for v in numerators]
    shares[shares.index(max(shares)) if rest_to is None else rest_to] += 65536 - sum(shares)
    return shares


class Pixel:
    """One pixel's mixture, channel after channel."""

    def __init__(
        self, row: Sequence[int], skip: Sequence[int], shift: Sequence[int], lo: Sequence[int],
        hi: Sequence[int], tables: Tables,
    ) -> None:  # fmt: skip
        self.channels = len(skip)
        self.k = len(row) // (1 + 2 * self.channels + self.channels * (self.channels - 1) // 2)
        self.row, self.skip, self.shift, self.lo, self.hi, self.tables = row, skip, shift, lo, hi, tables
        logits = list(row[: self.k])
        top = max(logits)
        weights = [tables.exp[min(top - v, len(tables.exp) - 1)] for v in logits]
        self.pi = share_out(weights, logits.index(top))
        self.x: list[int] = []
        self.mu: list[list[int]] = []
        self.begin()

    def begin(self) -> None:
        c, k_count = len(self.x), self.k
        if c == self.channels:
            return
        means = []
        for k in range(k_count):
            mu = bounded(self.skip[c], -(1 << 26), 1 << 26)
            mu += self.row[k_count + c * k_count + k] * 2 ** self.shift[c]
            for j in range(c):
                pair = c * (c - 1) // 2 + j
                coef = bounded(self.row[(1 + 2 * self.channels + pair) * k_count + k], -1023, 1023)
                mu += (coef * (256 * self.x[j] - self.mu[j][k]) + 128) // 256
            means.append(bounded(mu, -(1 << 26), 1 << 26))
        self.mu.append(means)

    def sigmoid(self, x: int, k: int) -> int:
        c = len(self.x)
        if x <= self.lo[c]:
            return 0
        if x > self.hi[c]:
            return ONE
        ls = bounded(self.row[(1 + self.channels + c) * self.k + k], -256, 383)
        distance = 256 * x - 128 - self.mu[c][k]
        t = distance * self.tables.inv[ls % 32] * 16 // 2 ** (ls // 32 + 8 + self.shift[c])
        position = bounded(t, -(20 << 20), 20 << 20) + (20 << 20)
        i, part = divmod(position, 32768)
        below, above = self.tables.sigmoid[i], self.tables.sigmoid[i + 1]
        return below + (above - below) * part // 32768

    def cdf(self, x: int) -> int:
        c = len(self.x)
        if x <= self.lo[c]:
            return 0
        if x > self.hi[c]:
            return ONE
        mass = sum(self.pi[k] * self.sigmoid(x, k) for k in range(self.k)) // 65536
        levels = self.hi[c] - self.lo[c] + 1
        return mass * (ONE - levels) // ONE + (x - self.lo[c])

    def accept(self, x: int) -> None:
        """Go on to the next channel, ``x`` being this one's value."""
        c = len(self.x)
        if self.lo[c] < self.hi[c]:
            own = [self.sigmoid(x + 1, k) - self.sigmoid(x, k) + 1 for k in range(self.k)]
            self.pi = share_out([p * q for p, q in zip(self.pi, own, strict=True)])
        self.x.append(x)
        self.begin()


class Invalid(Exception):
    """The stream breaks the specification."""


class Decoder:
    """The range decoder over integers that grow with the stream: nothing wraps, no carry is needed."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.code = int.from_bytes(data[:8].ljust(8, b"\0"), "big")
        self.range = 2**64 - 1
        self.low = 0  # in full, so that the ending can be checked from first principles
        self.shifts = 0

    def target(self, bits: int) -> int:
        value = (self.code - self.low) // (self.range >> bits)
        if value >= 1 << bits:
            raise Invalid("outside every interval")
        return value

    def take(self, cum: int, freq: int, bits: int) -> None:
        step = self.range >> bits
        self.low += step * cum
        self.range = step * freq
        while self.range < 1 << 56:
            i = 8 + self.shifts
            self.shifts += 1
            if self.shifts > len(self.data):
                raise Invalid("truncated")
            self.low <<= 8
            self.range <<= 8
            self.code = self.code << 8 | (self.data[i] if i < len(self.data) else 0)

    def finish(self) -> None:
        """Accept the one ending an encoder writes: the shortest digits that lie in the interval."""
        for extra in (0, 1):
            unit = 1 << (64 - 8 * extra)
            number = -(-self.low // unit) * unit
            if number < self.low + self.range:
                digits = (number >> (64 - 8 * extra)).to_bytes(self.shifts + extra, "big")
                if digits != self.data:
                    raise Invalid("not the canonical ending")
                return
        raise AssertionError("one byte always suffices")


def decode_pixels(
    data: bytes, head: Sequence[Sequence[int]], skip: Sequence[Sequence[int]], shift: Sequence[int],
    lo: Sequence[int], hi: Sequence[int], tables: Tables,
) -> list[list[int]]:  # fmt: skip
    """All pixels of one stream that holds nothing else, by plain bisection."""
    decoder = Decoder(data)
    result = []
    for row, base in zip(head, skip, strict=True):
        pixel = Pixel(row, base, shift, lo, hi, tables)
        for c in range(len(shift)):
            a, b = lo[c], hi[c] + 1
            if b - a > 1:
                target = decoder.target(28)
                while b - a > 1:
                    middle = (a + b) // 2
                    a, b = (middle, b) if pixel.cdf(middle) <= target else (a, middle)
                decoder.take(pixel.cdf(a), pixel.cdf(a + 1) - pixel.cdf(a), 28)
            pixel.accept(a)
        result.append(pixel.x)
    decoder.finish()
    return result
