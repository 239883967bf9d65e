"""Models and adapters by docs/format/model.md, in numpy int64: part of the independent decoder."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load as load_arrays

from tests.conformance.independent_entropy import (
    Mixture,
    RangeDecoder,
    Reject,
    decode_pixel,
    mixture_tables,
    need,
    reject,
)

I64 = NDArray[np.int64]


# -- numbers ------------------------------------------------------------------------------------------


class Fields:
    """Reads header fields; what does not fit is rejected with ``code``."""

    def __init__(self, data: bytes, code: str) -> None:
        self.data, self.code, self.at = data, code, 0

    def take(self, n: int) -> bytes:
        need(self.at + n <= len(self.data), self.code, "cut off")
        self.at += n
        return self.data[self.at - n : self.at]

    def u8(self) -> int:
        return self.take(1)[0]

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "little")

    def varint(self, limit: int) -> int:
        groups = [self.u8()]
        while groups[-1] & 128 and len(groups) < 10:
            groups.append(self.u8())
        value = sum((g & 127) << 7 * n for n, g in enumerate(groups))
        need(not groups[-1] & 128 and value <= limit, self.code, "number over its limit")
        need(len(groups) == 1 or groups[-1] != 0, self.code, "number not in its shortest form")
        return value

    def signed(self) -> int:
        n = self.varint(131071)
        return n // 2 if n % 2 == 0 else -(n + 1) // 2


def rounded(v: Any, s: Any) -> Any:
    """R(v, s) = floor(v / 2^s + 1/2), elementwise; a negative s multiplies."""
    v, s = np.asarray(v, np.int64), np.asarray(s, np.int64)
    up, down = np.maximum(-s, 0), np.maximum(s, 0)
    return (v * (np.int64(1) << up) + ((np.int64(1) << down) >> 1)) >> down


# -- the model file (model.md, sections 1, 2 and 6) -----------------------------------------------------


@dataclass(frozen=True)
class Model:
    digest: str
    size: dict[str, int]
    arrays: dict[str, I64]
    eps: int
    product_shift: list[int]
    fractions: dict[str, dict[str, int]]

    @property
    def guides(self) -> int:
        return self.size.get("guides", 0)

    def taps(self) -> list[tuple[int, int]]:
        r = self.size["kernel"] // 2
        near = range(-r, r + 1)
        return [(di, dj) for di in near for dj in near if 2 * di + dj <= 0]


def read_model(raw: bytes) -> Model:
    """A model file, whole and within all bounds. (Of E302 only what this decoder rests on is looked at.)"""
    length = int.from_bytes(raw[:8], "little")
    document = json.loads(json.loads(raw[8 : 8 + length])["__metadata__"]["callic"])
    need(document["version"] == 1, "E302", "version")
    model = Model(
        hashlib.sha256(raw).hexdigest(),
        document["config"],
        {name: array.astype(np.int64) for name, array in load_arrays(raw).items()},
        document["eps"],
        document["product_shift"],
        document["fractions"],
    )
    check_bounds(model)
    return model


def check_bounds(model: Model) -> None:
    a, c, d = model.arrays, model.size["channels"], model.size["dim"]

    def layer(name: str, inputs: Any, exact: int, with_bias: int) -> None:
        weights = a[f"{name}.kernel"].T if name.endswith("dw") else a[f"{name}.weight"]
        worst = int((np.abs(weights) * inputs).sum(axis=1).max())
        need(worst < exact, "E303", name)
        need(worst + int(np.abs(a[f"{name}.bias"]).max()) < with_bias, "E303", f"{name} with bias")
        within(f"{name}.shift", 0, 30)

    def within(name: str, least: int, most: int) -> None:
        need(least <= a[name].min() and a[name].max() <= most, "E303", name)

    need(d >= 2 and d & (d - 1) == 0, "E303", "dim")
    guide = [1279] * 9 + [64] if model.guides else []
    layer("embed", np.array([1279] * (4 * c) + [512] * c + [64] + guide), 1 << 24, 1 << 30)
    for b in range(model.size["depth"]):
        for part in ("a", "v", "o", "dw", "up", "down"):
            layer(f"{b}.{part}", 511, 1 << 24, 1 << 30)
        within(f"{b}.swish", -511, 511)
        within(f"{b}.gelu", -511, 511)
        need(0 <= model.product_shift[b] <= 20, "E303", "product_shift")
    layer("head", 32767, 1 << 53, 1 << 52)
    within("compand", 0, 1279)
    within("rsqrt", 1, (1 << 24) - 1)
    need(int(np.abs(a["skip"]).sum()) < 1 << 20, "E303", "skip")
    need(1 << 14 <= model.eps < 1 << 40, "E303", "eps")


# -- adapters (codestream.md, section 7) ----------------------------------------------------------------


def read_adapter(raw: bytes, models: Mapping[str, Model]) -> tuple[Model, dict[str, I64]]:
    """(the model it belongs to, its factors)."""
    need(len(raw) >= 8, "E302", "short")
    need(zlib.crc32(raw[:-4]) == int.from_bytes(raw[-4:], "little"), "E302", "CRC")
    data = Fields(raw[:-4], "E302")
    need(data.take(4) == b"\x8fCLA" and data.u8() == 1, "E302", "magic or version")
    model = find(models, data.take(8))
    ranks = [data.u8() for _ in range(3)]
    need(max(ranks) <= 64, "E302", "rank")
    d, k, hidden = model.size["dim"], model.size["kernel"], model.size["dim"] * model.size["mlp_ratio"]
    shapes: dict[str, tuple[int, int]] = {}
    for b in range(model.size["depth"]):
        for name in (f"{b}.a", f"{b}.v"):
            shapes |= {f"{name}.B": (d, ranks[0]), f"{name}.A": (ranks[0], d)}
        shapes |= {f"{b}.dw.X": (d, ranks[2]), f"{b}.dw.Y": (k, ranks[2]), f"{b}.dw.Z": (k, ranks[2])}
        shapes |= {f"{b}.up.B": (hidden, ranks[1]), f"{b}.up.A": (ranks[1], d)}
    shapes = {name: shape for name, shape in shapes.items() if 0 not in shape}
    scales = {name: data.u8() for name in shapes}
    need(all(s <= 63 or s == 255 for s in scales.values()), "E302", "scale")
    decoder = RangeDecoder(data.take(data.varint(1 << 24)))
    need(data.at == len(data.data), "E302", "bytes after the stream")
    tables = mixture_tables(model.arrays)
    factors = {}
    try:
        for name, shape in shapes.items():
            values = np.zeros(shape, np.int64)
            if scales[name] != 255:
                pixel = Mixture([0, 0, 8 * scales[name] - 160], [0], 0, [-1023], [1023], tables)
                values = np.array([decode_pixel(decoder, pixel)[0] for _ in range(values.size)]).reshape(
                    shape
                )
            factors[name] = start(name, shape) + values
        decoder.finish()
    except Reject as error:
        reject("E302", str(error))
    return model, factors


def start(name: str, shape: tuple[int, int]) -> I64:
    """The fixed start of a factor."""
    if name[-1] in "BX":
        return np.zeros(shape, np.int64)
    bits = ""
    while len(bits) < shape[0] * shape[1]:
        digest = hashlib.sha256(f"{name}/{len(bits) // 256}".encode()).digest()
        bits += "".join(f"{byte:08b}" for byte in digest)
    return np.array([8 if b == "1" else -8 for b in bits[: shape[0] * shape[1]]], np.int64).reshape(shape)


def merge(model: Model, factors: dict[str, I64]) -> Model:
    """The model with an adapter merged in."""
    arrays, radius = dict(model.arrays), model.size["kernel"] // 2
    for b in range(model.size["depth"]):
        places = model.fractions[str(b)]
        for part in ("a", "v", "dw", "up"):
            name = f"{b}.{part}"
            before, after = (places["a"], places["dw"]) if part == "dw" else (6, places[part])
            e = arrays[f"{name}.shift"] - before + after
            need(e.min() >= -16 and e.max() <= 40, "E303", f"places of {name}")
            if part == "dw" and f"{name}.X" in factors:
                x, y, z = (factors[f"{name}.{f}"] for f in "XYZ")
                taps = np.array(model.taps()) + radius
                change = rounded((y[taps[:, 0]] * z[taps[:, 1]]) @ x.T, 15 - e[None, :])
                key = f"{name}.kernel"
            elif part != "dw" and f"{name}.B" in factors:
                change = rounded(factors[f"{name}.B"] @ factors[f"{name}.A"], 10 - e[:, None])
                key = f"{name}.weight"
            else:
                continue
            arrays[key] = arrays[key] + change
            need(int(np.abs(arrays[key]).max()) <= 4095, "E303", f"merged {name}")
    merged = replace(model, arrays=arrays)
    check_bounds(merged)
    return merged


def find(models: Mapping[str, Model], prefix: bytes) -> Model:
    found = [m for digest, m in models.items() if digest.startswith(prefix.hex())]
    return found[0] if found else reject("E301", f"no model {prefix.hex()}")


# -- the network (model.md, sections 3 and 4) -----------------------------------------------------------


class Patch:
    """One patch: the levels known so far, and what each block keeps of earlier pixels."""

    def __init__(self, model: Model, levels: I64, shift: int, depth: int, guide: I64 | None, use: int) -> None:
        self.model, self.x, self.shift, self.depth = model, levels, shift, depth  # levels (C, h, w)
        self.y, self.use = guide, use  # guide (h, w); +-64
        _, self.h, self.w = levels.shape
        self.kept = [
            np.zeros((self.h, self.w, model.size["dim"]), np.int64) for _ in range(model.size["depth"])
        ]

    def features(self, i: int, j: int) -> tuple[I64, list[int]]:
        a, mid, f, skips = self.model.arrays, 1 << (self.depth - 1), [], []
        residuals: list[list[int]] = [[], [], [], []]
        for c, x in enumerate(self.x):
            west = x[i, j - 1] if j > 0 else x[i - 1, j] if i > 0 else mid
            north = x[i - 1, j] if i > 0 else west
            taps = [
                west,
                north,
                x[i - 1, j - 1] if i > 0 and j > 0 else north,
                x[i - 1, j + 1] if i > 0 and j + 1 < self.w else north,
                x[i, j - 2] if j > 1 else west,
                x[i - 2, j] if i > 1 else north,
            ]
            known = [int(t) for t in taps]
            total = sum(int(a["skip"][c, t - 1]) * (known[t] - known[0]) for t in range(1, 6))
            skip = 256 * known[0] + int(rounded(total, 6))
            skips.append(skip)
            for t in range(4):
                q = int(rounded(256 * known[t] - skip, 4 + self.shift))
                size = int(a["compand"][min(abs(q), 16383)])
                residuals[t].append(-size if q < 0 else size)
            f.append(min(max(int(rounded(4 * (known[0] - mid), self.depth - 8)), -512), 512))
        told = self.told(i, j, skips[0]) if self.model.guides else []
        return np.array([*chain.from_iterable(residuals), *f, 4 * self.shift, *told], np.int64), skips

    def told(self, i: int, j: int, skip: int) -> list[int]:
        if self.y is None:
            return [0] * 10
        here, found = int(self.y[i, j]), []
        for di, dj in ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)):
            inside = 0 <= i + di < self.h and 0 <= j + dj < self.w
            found.append(256 * (int(self.y[i + di, j + dj]) - here) if inside else 0)
        d = [int(rounded(v, 4 + self.shift)) for v in (*found, 256 * here - skip)]
        sizes = [int(self.model.arrays["compand"][min(abs(v), 16383)]) for v in d]
        return [*(-size if v < 0 else size for size, v in zip(sizes, d, strict=True)), self.use]

    def linear(self, name: str, x: I64) -> Any:
        a = self.model.arrays
        return rounded(a[f"{name}.weight"] @ x + a[f"{name}.bias"], a[f"{name}.shift"])

    def norm(self, x: I64) -> I64:
        fine = self.model.size["dim"].bit_length() - 1
        d = 16 * x - int(rounded(16 * int(x.sum()), fine))
        v, k = self.model.eps + int((d * d).sum()), 0
        while v >> k >= 4096:
            k += 2
        r = int(self.model.arrays["rsqrt"][(v >> k) - 1024])
        out: I64 = np.clip(rounded(d * r, 16 + k // 2), -511, 511)
        return out

    def group(self, pixels: Sequence[tuple[int, int]]) -> list[tuple[list[int], list[int]]]:
        """(head row, skips) of the pixels of one group."""
        model, a = self.model, self.model.arrays
        taken = [self.features(i, j) for i, j in pixels]
        stream = [np.clip(self.linear("embed", f), -32767, 32767) for f, _ in taken]
        for b in range(model.size["depth"]):
            normal = [self.norm(x) for x in stream]
            for (i, j), n in zip(pixels, normal, strict=True):
                self.kept[b][i, j] = np.clip(self.linear(f"{b}.a", n), -511, 511)
            for number, ((i, j), n) in enumerate(zip(pixels, normal, strict=True)):
                total = a[f"{b}.dw.bias"].copy()
                for t, (di, dj) in enumerate(model.taps()):
                    if 0 <= i + di < self.h and 0 <= j + dj < self.w:
                        total += a[f"{b}.dw.kernel"][t] * self.kept[b][i + di, j + dj]
                z = rounded(total, a[f"{b}.dw.shift"])
                gate = a[f"{b}.swish"][np.clip(z, -2048, 2047) + 2048]
                value = np.clip(self.linear(f"{b}.v", n), -511, 511)
                product = np.clip(rounded(gate * value, model.product_shift[b]), -511, 511)
                x = np.clip(stream[number] + self.linear(f"{b}.o", product), -32767, 32767)
                hidden = a[f"{b}.gelu"][np.clip(self.linear(f"{b}.up", self.norm(x)), -2048, 2047) + 2048]
                stream[number] = np.clip(x + self.linear(f"{b}.down", hidden), -32767, 32767)
        limit = (1 << 26) - 1
        heads = [np.clip(self.linear("head", x), -limit, limit).tolist() for x in stream]
        return [(head, skips) for head, (_, skips) in zip(heads, taken, strict=True)]
