"""A second decoder of docs/format/deflate.md, written from that page alone; nothing here knows the package.

    streams(side, [raw, ...])       # the raw deflate streams that the differences ``side`` tell of, in order

Plain and slow on purpose: every paragraph of the page is one function, names are those of the page.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

NAMES = (
    "style",
    "good",
    "patient",
    "nice",
    "chain",
    "reach",
    "bits",
    "shortest",
    "near",
    "first",
    "tokens",
    "forget",
)
WIDTHS = (2, 9, 9, 9, 13, 16, 5, 3, 16, 1, 20, 1)
DEFAULTS = (1, 8, 16, 128, 128, 32506, 15, 3, 4096, 1, 16383, 0)
ORDER = (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15)
FIXED = [8] * 144 + [9] * 112 + [7] * 24 + [8] * 8
LENGTH_BASES = (
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
)
LENGTH_EXTRA = (0,) * 8 + (1,) * 4 + (2,) * 4 + (3,) * 4 + (4,) * 4 + (5,) * 4 + (0,)
DISTANCE_BASES = (1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193, 257, 385, 513, 769, 1025, 1537, 2049, 3073,
                  4097, 6145, 8193, 12289, 16385, 24577)  # fmt: skip
DISTANCE_EXTRA = (
    0,
    0,
    0,
    0,
    1,
    1,
    2,
    2,
    3,
    3,
    4,
    4,
    5,
    5,
    6,
    6,
    7,
    7,
    8,
    8,
    9,
    9,
    10,
    10,
    11,
    11,
    12,
    12,
    13,
    13,
)


class Refused(Exception):
    """Section 7: what a reader must refuse."""


class Coder:
    """Section 1."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 6
        self.range = (1 << 48) - 1
        self.code = int.from_bytes(data[:6].ljust(6, b"\0"), "big")
        self.contexts: dict[tuple, list[int]] = defaultdict(lambda: [1 << 21, 0])

    def step(self, bound: int) -> int:
        if self.code >= bound:
            self.code -= bound
            self.range -= bound
            value = 1
        else:
            self.range = bound
            value = 0
        while self.range < 1 << 40:
            self.range *= 256
            self.code = 256 * self.code + (self.data[self.at] if self.at < len(self.data) else 0)
            self.at += 1
        return value

    def bit(self, *context: object) -> int:
        own = self.contexts[context]
        share = min(max(own[0] >> 6, 8), 65528)
        value = self.step((self.range >> 16) * share)
        target = 0 if value else (1 << 22) - 1
        own[0] += ((target - own[0]) * (131072 // (2 * own[1] + 3))) >> 16
        own[1] = min(own[1] + 1, 255)
        return value

    def plain(self, bits: int) -> int:
        value = 0
        for _ in range(bits):
            value = 2 * value + self.step(self.range >> 1)
        return value

    def number(self, *name: object) -> int:
        length = 0
        while length < 31 and self.bit("U", length, *name):
            length += 1
        if length == 31:
            raise Refused("a number of 31 bits")
        result = 1
        for _ in range(length):
            result = 2 * result + (
                self.bit("M", result, *name) if result < 16 else self.step(self.range >> 1)
            )
        return result - 1


class Bits:
    """The bits of the stream, in the order of RFC 1951."""

    def __init__(self) -> None:
        self.bytes, self.value, self.count = bytearray(), 0, 0

    def put(self, value: int, bits: int) -> None:
        self.value |= value << self.count
        self.count += bits
        while self.count >= 8:
            self.bytes.append(self.value & 255)
            self.value >>= 8
            self.count -= 8

    def missing(self) -> int:
        return -self.count % 8

    def code(self, code: int, bits: int) -> None:
        if bits == 0:
            raise Refused("a symbol without a code")
        code %= 1 << bits
        self.put(int(format(code, f"0{bits}b")[::-1], 2), bits)


def canonical(lengths: Sequence[int]) -> list[int]:
    """Codes of the lengths (RFC 1951, 3.2.2)."""
    counts = [0] * 17
    for length in lengths:
        counts[length] += 1
    counts[0] = 0
    following, code = [0] * 17, 0
    for bits in range(1, 17):
        code = (code + counts[bits - 1]) << 1
        following[bits] = code
    codes = []
    for length in lengths:
        codes.append(following[length])
        following[length] += 1
    return codes


# -- section 6: code lengths ------------------------------------------------------------------------------------


def lengths_by_heap(counts: Sequence[int], most: int) -> list[int]:
    """tree = 0."""
    symbols = [symbol for symbol, count in enumerate(counts) if count]
    key: dict[int, int] = {symbol: counts[symbol] for symbol in symbols}
    depth = dict.fromkeys(symbols, 0)
    last = symbols[-1] if symbols else -1
    while len(symbols) < 2:
        if last < 2:
            last += 1
            symbol = last
        else:
            symbol = 0
        symbols.append(symbol)
        key[symbol], depth[symbol] = 1, 0
    heap = [-1, *symbols]

    def before(a: int, b: int) -> bool:
        return key[a] < key[b] or (key[a] == key[b] and depth[a] <= depth[b])

    def sift(k: int) -> None:
        node, m = heap[k], len(heap) - 1
        while 2 * k <= m:
            child = 2 * k
            if child < m and before(heap[child + 1], heap[child]):
                child += 1
            if before(node, heap[child]):
                break
            heap[k] = heap[child]
            k = child
        heap[k] = node

    for k in range((len(heap) - 1) // 2, 0, -1):
        sift(k)
    pairs: list[tuple[int, int, int]] = []
    new = len(counts)
    while len(heap) > 2:
        a = heap[1]
        heap[1] = heap[-1]
        heap.pop()
        sift(1)
        b = heap[1]
        key[new], depth[new] = key[a] + key[b], max(depth[a], depth[b]) + 1
        pairs.append((a, b, new))
        heap[1] = new
        sift(1)
        new += 1
    length = {new - 1: 0}
    over, numbers = 0, [0] * (most + 1)
    for a, b, parent in reversed(pairs):
        for node in (b, a):
            length[node] = length[parent] + 1
            if length[node] > most:
                length[node] = most
                over += 1
            if node < len(counts):
                numbers[length[node]] += 1
    if over > 0:
        while over > 0:
            bits = most - 1
            while numbers[bits] == 0:
                bits -= 1
            numbers[bits] -= 1
            numbers[bits + 1] += 2
            numbers[most] -= 1
            over -= 2
        order = [node for a, b, _ in pairs for node in (a, b) if node < len(counts)]
        at = 0
        for bits in range(most, 0, -1):
            for _ in range(numbers[bits]):
                length[order[at]] = bits
                at += 1
    return [length[symbol] if symbol in key else 0 for symbol in range(len(counts))]


def lengths_by_queues(counts: Sequence[int], most: int) -> list[int]:
    """tree = 1."""
    symbols = sorted((symbol for symbol, count in enumerate(counts) if count), key=lambda s: (counts[s], s))
    found = [0] * len(counts)
    if len(symbols) < 2:
        found[0] = 1
        found[symbols[0] if symbols and symbols[0] != 0 else 1] = 1
        return found
    leaves = [(counts[s], -1) for s in symbols]
    inner: list[tuple[int, int]] = []
    parents: dict[int, int] = {}
    leaf = node = 0
    for number in range(len(symbols) - 1):
        total = 0
        for _ in range(2):
            if node >= len(inner) or (leaf < len(leaves) and leaves[leaf][0] <= inner[node][0]):
                total += leaves[leaf][0]
                leaf += 1
            else:
                total += inner[node][0]
                parents[node] = number
                node += 1
        inner.append((total, number))
    numbers = [0] * (most + 2)
    numbers[1] = 2
    length = {len(inner) - 1: 0}
    for number in range(len(inner) - 2, -1, -1):
        length[number] = length[parents[number]] + 1
        bits = length[number]
        if bits >= most:
            bits = most - 1
            while numbers[bits] == 0:
                bits -= 1
        numbers[bits] -= 1
        numbers[bits + 1] += 2
    at = 0
    for bits in range(most, 0, -1):
        for _ in range(numbers[bits]):
            found[symbols[at]] = bits
            at += 1
    return found


def lengths(tree: int, counts: Sequence[int], most: int) -> list[int]:
    return (lengths_by_queues if tree else lengths_by_heap)(counts, most)


def extent(values: Sequence[int], least: int) -> int:
    """Up to the last that is not 0, at least ``least``."""
    return max([least, *(number + 1 for number, value in enumerate(values) if value)])


Operation = tuple[int, int, int]  # symbol of the precode, its extra bits and their number


def expected_operation(own: Sequence[int], at: int, border: int, joined: int) -> tuple[int, int]:
    """(symbol, lengths that it writes) expected at ``at``; 0 .. 15 is a length itself. The second list begins at ``border``."""
    end = len(own) if joined or at >= border else border
    value = own[at]
    most = 138 if value == 0 else 6
    run = 1
    while run < most and at + run < end and own[at + run] == value:
        run += 1
    if run < 3:
        return value, 1
    if value == 0:
        return (17 if run <= 10 else 18), run
    before = at > 0 and own[at - 1] == value and (joined or at != border)
    return (16, run) if before else (value, 1)


def operation(symbol: int, times: int) -> Operation:
    if symbol == 16:
        return 16, times - 3, 2
    if symbol == 17:
        return 17, times - 3, 3
    if symbol == 18:
        return 18, times - 11, 7
    return symbol, 0, 0


# -- section 4: what is expected --------------------------------------------------------------------------------


class Strings:
    """The strings that were entered, and searches among them."""

    def __init__(self, raw: bytes, limits: dict[str, int]) -> None:
        self.raw, self.limits = raw, limits
        self.head: dict[int, int] = {}
        self.prev: dict[int, int] = {}
        self.next = 0  # first string that is not entered yet

    def hash(self, p: int) -> int:
        bits = self.limits["bits"]
        s = (bits + 2) // 3
        a, b, c = self.raw[p : p + 3]
        return ((a << 2 * s) ^ (b << s) ^ c) % (1 << bits)

    def enter(self, end: int) -> None:
        """Enter the strings before ``end``."""
        while self.next < end:
            p = self.next
            if p + 3 <= len(self.raw):
                place = self.hash(p)
                self.prev[p % 65536] = self.head.get(place, -1)
                self.head[place] = p
            self.next += 1

    def skip(self, end: int) -> None:
        """The strings before ``end`` are never entered."""
        self.next = max(self.next, end)

    def candidates(self, p: int):  # type: ignore[no-untyped-def]
        if p + 3 > len(self.raw):
            return
        q = self.prev.get(p % 65536, -1) if p < self.next else self.head.get(self.hash(p), -1)
        while q >= 0:
            yield q
            following = self.prev.get(q % 65536, -1)
            if following >= q:
                return
            q = following

    def equal(self, q: int, p: int, most: int) -> int:
        raw, length = self.raw, 0
        while length < most and raw[q + length] == raw[p + length]:
            length += 1
        return length

    def search(self, p: int, best: int, chain: int) -> tuple[int, int]:
        """(length, distance); (0, 0) for nothing."""
        most = min(258, len(self.raw) - p)
        found = (0, 0)
        if most <= best:
            return found
        reach = self.limits["reach"]
        for number, q in enumerate(self.candidates(p)):
            if number >= chain or q < max(self.limits["first"], p - reach) or (number > 0 and q == p - reach):
                break
            length = self.equal(q, p, most)
            if length > best:
                best, found = length, (length, p - q)
                if length >= min(self.limits["nice"], most):
                    break
        return found


class Guesser:
    """guess and took."""

    def __init__(self, strings: Strings) -> None:
        self.strings, self.limits = strings, strings.limits
        self.ahead: tuple[int, int, int] | None = None  # place, length, distance

    def guess(self, p: int) -> tuple[int, int, int, int]:
        """(1 if a match is expected, L, D, N)."""
        limits, strings = self.limits, self.strings
        if self.ahead is not None and self.ahead[0] == p + 1:
            return 0, 0, 0, 0
        if self.ahead is not None and self.ahead[0] == p:
            _, length, distance = self.ahead
        else:
            length, distance = strings.search(p, 2, limits["chain"])
        self.ahead = None
        if length == 0 or length < limits["shortest"] or (length == 3 and distance > limits["near"]):
            return 0, length, distance, 0
        style = limits["style"]
        if (
            style == 0
            or (style == 1 and length >= limits["patient"])
            or (style > 1 and length >= limits["nice"])
        ):
            return 1, length, distance, 0
        strings.enter(p + 1)
        if style == 1:
            chain = limits["chain"] // 4 if length >= limits["good"] else limits["chain"]
            further = strings.search(p + 1, length, chain)
            if further[0] == 0 or further[0] < limits["shortest"]:
                return 1, length, distance, 0
            self.ahead = (p + 1, *further)
            return 0, length, distance, further[0]

        def worth(one: tuple[int, int]) -> int:
            return 4 * one[0] - (one[1].bit_length() - 1)

        further = strings.search(p + 1, length - 1, limits["chain"] // 2)
        if further[0] and worth(further) - worth((length, distance)) > 2:
            self.ahead = (p + 1, *further)
            return 0, length, distance, further[0]
        if style == 2:
            return 1, length, distance, 0
        strings.enter(p + 2)
        further = strings.search(p + 2, length - 1, limits["chain"] // 4)
        if further[0] and worth(further) - worth((length, distance)) > 6:
            self.ahead = (p + 2, *further)
            return 0, length, distance, further[0]
        return 1, length, distance, 0

    def took(self, p: int, length: int) -> None:
        if length > 1:
            self.ahead = None
        if self.limits["style"] == 0 and length > self.limits["patient"]:
            self.strings.enter(p + 1)
            self.strings.skip(p + length)
        else:
            self.strings.enter(p + length)


# -- sections 2, 3, 5, 6 ----------------------------------------------------------------------------------------


def length_class(length: int) -> int:
    if length == 0:
        return 0
    return 1 + sum(length > border for border in (3, 4, 5, 7, 11, 19, 63, 257))


def kind_of(expected: int, length: int, distance: int, ahead: int) -> int:
    if expected:
        return 10 + 4 * (length_class(length) - 1) + sum(distance > border for border in (64, 1024, 8192))
    if ahead:
        return 2 + min(max(ahead - length, 0), 3) + (4 if length > 6 else 0)
    return 1 if length else 0


Token = tuple[
    int, int, int
]  # value of a literal, or length and distance; 1 where 258 is written the long way


class Stream:
    """One stream, written as its differences say."""

    def __init__(self, c: Coder, raw: bytes, limits: dict[str, int]) -> None:
        self.c, self.raw, self.limits = c, raw, limits
        self.out = Bits()
        self.strings = Strings(raw, limits)
        self.guesser = Guesser(self.strings)
        self.place = self.stored = self.event = self.before = self.history = self.tree = self.joined = 0

    def write(self) -> bytes:
        size = self.c.number("size")
        if size > 2 * len(self.raw) + 65536:
            raise Refused("a stream far larger than what it holds")
        while not self.block():
            pass
        missing = self.out.missing()
        if missing:
            self.out.put(self.c.plain(missing) if self.c.bit("pad", 0) else 0, missing)
        if len(self.out.bytes) != size or self.place != len(self.raw):
            raise Refused("the stream has another size, or ends before its raw bytes")
        return bytes(self.out.bytes)

    def block(self) -> int:
        """1 after the last."""
        c = self.c
        self.stored = c.bit("store", self.stored)
        if self.stored:
            return self.stored_block()
        end, tokens = len(self.raw), list[Token]()
        if c.bit("full", self.event) == 0:
            self.event, wanted = 0, self.limits["tokens"]
        else:
            self.event = 1
            wanted = c.number("count") if c.bit("part", int(self.place == end)) else -1
        while len(tokens) < wanted or (wanted < 0 and self.place < end):
            if self.place >= end:
                raise Refused("a token behind all raw bytes")
            tokens.append(self.token())
        final = c.bit("final", int(self.place == end))
        literals, distances = [0] * 286, [0] * 30
        literals[256] = 1
        for value, distance, long in tokens:
            literals[length_symbol(value, long) if distance else value] += 1
            if distance:
                distances[distance_symbol(distance)] += 1
        fixed = c.bit("fixed", int(self.expects_fixed(literals, distances)))
        self.out.put(final, 1)
        self.out.put(1 if fixed else 2, 2)
        if fixed:
            codes = FIXED, [5] * 30
        else:
            codes = self.header(literals, distances)
        self.write_tokens(tokens, *codes)
        return final

    def stored_block(self) -> int:
        c, out = self.c, self.out
        final = c.bit("final", 0)
        out.put(final, 1)
        out.put(0, 2)
        missing = out.missing()
        if missing:
            out.put(c.plain(missing) if c.bit("pad", 1) else 0, missing)
        if c.bit("same") == 0:
            size = self.before
        elif c.bit("agrees") == 0:
            size = len(self.raw) - self.place
        else:
            size = c.number("stored bytes")
        if size > 65535 or self.place + size > len(self.raw):
            raise Refused("a stored block beyond its bounds")
        out.put(size, 16)
        out.put(size ^ 0xFFFF, 16)
        for value in self.raw[self.place : self.place + size]:
            out.put(value, 8)
        self.before = size
        self.place += size
        self.strings.enter(self.place)
        self.guesser.ahead = None
        if size == 0 and self.limits["forget"]:
            self.strings.head.clear()
        return final

    def token(self) -> Token:
        """Section 5."""
        c, p, raw = self.c, self.place, self.raw
        expected, L, D, N = self.guesser.guess(p)
        kind = kind_of(expected, L, D, N)
        wrong = c.bit("hit", self.history, kind)
        self.history = (2 * self.history + wrong) % 4
        length = distance = 0
        if not wrong:
            if expected:
                length, distance = L, D
        elif not (expected and c.bit("match", kind) == 0):
            if L == 0:
                length = 3 + c.number("unknown")
            elif c.bit("same", expected, length_class(L)) == 0:
                length = L
            elif c.bit("longer", expected, length_class(L)):
                length = L + 1 + c.number("longer by", length_class(L) // 4)
            else:
                length = L - 1 - c.number("shorter by", length_class(L) // 4)
            if not 3 <= length <= 258 or p + length > len(raw):
                raise Refused("a match of an impossible length")
            size = min(length - 3, 3)
            if length <= L and not (expected and length == L) and c.bit("nearby", expected, size):
                distance = D
            elif c.bit("inside", size):
                distance = 1 + c.plain(15)
            else:
                distance = self.ranked(p, length, c.number("rank", size))
            if distance > p:
                raise Refused("a match from before the first byte")
        long = c.bit("long") if length == 258 else 0
        self.guesser.took(p, length or 1)
        self.place += length or 1
        return (length, distance, long) if length else (raw[p], 0, 0)

    def ranked(self, p: int, length: int, rank: int) -> int:
        for number, q in enumerate(self.strings.candidates(p)):
            if number >= 1024 or p - q > 32768:
                break
            if self.strings.equal(q, p, length) >= length:
                if rank == 0:
                    return p - q
                rank -= 1
        raise Refused("a rank that no candidate has")

    def expects_fixed(self, literals: list[int], distances: list[int]) -> bool:
        lit, dist = lengths(self.tree, literals, 15), lengths(self.tree, distances, 15)
        lit, dist = lit[: extent(lit, 257)], dist[: extent(dist, 1)]
        own, at, operations = [*lit, *dist], 0, list[Operation]()
        while at < len(own):
            symbol, times = expected_operation(own, at, len(lit), self.joined)
            operations.append(operation(symbol, times))
            at += times
        precode = lengths(self.tree, counts_of(operations), 7)
        written = extent([precode[symbol] for symbol in ORDER], 4)
        dynamic = 17 + 3 * written + sum(precode[symbol] + bits for symbol, _, bits in operations)
        dynamic += sum(n * size for n, size in zip(literals, lit, strict=False))
        dynamic += sum(n * size for n, size in zip(distances, dist, strict=False))
        fixed = 3 + sum(n * size for n, size in zip(literals, FIXED, strict=False)) + 5 * sum(distances)
        return -(-fixed // 8) <= -(-dynamic // 8)

    def differ(self, code: int, expected: Sequence[int], number: int) -> list[int]:
        c, history, found = self.c, 0, []
        for symbol in range(number):
            e = expected[symbol] if symbol < len(expected) else 0
            wrong = c.bit("length", code, int(e > 0), history)
            history = (2 * history + wrong) % 4
            if not wrong:
                value = e
            elif e == 0:
                value = 1 + c.number("unused", code)
            elif c.bit("down", code):
                value = e - 1 - c.number("step down", code)
            else:
                value = e + 1 + c.number("step up", code)
            if not 0 <= value <= (7 if code == 2 else 15):
                raise Refused("a code length that none can have")
            found.append(value)
        return found

    def header(self, literals: list[int], distances: list[int]) -> tuple[list[int], list[int]]:
        c, out = self.c, self.out
        self.tree, self.joined = c.bit("tree"), c.bit("joined")
        lists = []
        for code, counts, least in ((0, literals, 257), (1, distances, 1)):
            expected = lengths(self.tree, counts, 15)
            number = least + c.plain(5) if c.bit("extent", code) else extent(expected, least)
            lists.append(self.differ(code, expected, number))
        lit, dist = lists
        if len(lit) > 286 or len(dist) > 32:
            raise Refused("more code lengths than there are symbols")
        operations = self.operations([*lit, *dist], len(lit))
        precode = self.differ(2, lengths(self.tree, counts_of(operations), 7), 19)
        ordered = [precode[symbol] for symbol in ORDER]
        written = 4 + c.plain(4) if c.bit("trim") else extent(ordered, 4)
        out.put(len(lit) - 257, 5)
        out.put(len(dist) - 1, 5)
        out.put(written - 4, 4)
        for value in [*ordered, 0, 0, 0][:written]:
            out.put(value, 3)
        codes = canonical(precode)
        for symbol, extra, bits in operations:
            out.code(codes[symbol], precode[symbol])
            out.put(extra, bits)
        return lit, dist

    def operations(self, own: list[int], border: int) -> list[Operation]:
        c, history, at, found = self.c, 0, 0, list[Operation]()
        while at < len(own):
            value = own[at]
            symbol, times = expected_operation(own, at, border, self.joined)
            wrong = c.bit("operation", history)
            history = (2 * history + wrong) % 4
            if wrong:
                if c.bit("repeat", int(symbol >= 16)) == 0:
                    symbol, times = value, 1
                else:
                    times = 3 + c.number("times")
                    if value or c.bit("zeros"):
                        symbol = 16
                    else:
                        symbol = 17 if times <= 10 else 18
                    if at + times > len(own) or times > (6 if symbol == 16 else 138):
                        raise Refused("a repetition that is too long")
                    if any(v != value for v in own[at : at + times]):
                        raise Refused("a repetition of lengths that differ")
                    if symbol == 16 and (at == 0 or own[at - 1] != value):
                        raise Refused("a repetition of another length")
            found.append(operation(symbol, times))
            at += times
        return found

    def write_tokens(self, tokens: list[Token], lit: list[int], dist: list[int]) -> None:
        out, literal_codes, distance_codes = self.out, canonical(lit), canonical(dist)

        def put(codes: list[int], sizes: list[int], symbol: int) -> None:
            if symbol >= len(sizes):
                raise Refused("a symbol without a code")
            out.code(codes[symbol], sizes[symbol])

        for value, distance, long in tokens:
            if not distance:
                put(literal_codes, lit, value)
                continue
            symbol = length_symbol(value, long)
            put(literal_codes, lit, symbol)
            out.put(value - LENGTH_BASES[symbol - 257], LENGTH_EXTRA[symbol - 257])
            symbol = distance_symbol(distance)
            put(distance_codes, dist, symbol)
            out.put(distance - DISTANCE_BASES[symbol], DISTANCE_EXTRA[symbol])
        put(literal_codes, lit, 256)


def counts_of(operations: list[Operation]) -> list[int]:
    counts = [0] * 19
    for symbol, _, _ in operations:
        counts[symbol] += 1
    return counts


def length_symbol(length: int, long: int) -> int:
    if length == 258:
        return 284 if long else 285
    return 257 + max(number for number, base in enumerate(LENGTH_BASES[:28]) if base <= length)


def distance_symbol(distance: int) -> int:
    return max(number for number, base in enumerate(DISTANCE_BASES) if base <= distance)


def check(limits: dict[str, int]) -> None:
    if limits["chain"] < 1 or limits["reach"] > 32768 or not 8 <= limits["bits"] <= 18:
        raise Refused("limits that no reader takes")
    if limits["shortest"] < 3 or limits["nice"] < 3 or limits["tokens"] < 1:
        raise Refused("limits that no reader takes")


def streams(side: bytes, raws: Sequence[bytes]) -> list[bytes]:
    """The streams that the differences tell of. Raises Refused."""
    c, values, made = Coder(side), DEFAULTS, []
    for raw in raws:
        if c.bit("new"):
            values = tuple(c.plain(width) for width in WIDTHS)
        limits = dict(zip(NAMES, values, strict=True))
        check(limits)
        made.append(Stream(c, raw, limits).write())
    return made
