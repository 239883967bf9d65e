"""Tables, head layout, and the CDF: strictly rising, equal to a second implementation, close to the reals."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from callic_archive.entropy import kernels
from callic_archive.entropy.mixture import HeadLayout, MixtureTables, ideal_bits, intervals
from callic_archive.errors import EntropyInputError, EntropyTableError
from tests.unit.entropy import reference
from tests.unit.entropy.cases import PLAIN_TABLES, TABLES, Case, adversarial, fixed, realistic

ROOT = Path(__file__).parents[3]


def test_layout_of_the_two_shipped_heads() -> None:
    rgb = HeadLayout(3, 5)
    assert (rgb.width, rgb.pairs) == (50, 3)
    assert (rgb.logits, rgb.means, rgb.scales) == (slice(0, 5), slice(5, 20), slice(20, 35))
    assert rgb.coefficients == slice(35, 50)
    assert HeadLayout(1, 5).width == 15
    assert HeadLayout.from_width(50, 3) == rgb
    with pytest.raises(EntropyInputError, match="does not suit"):
        HeadLayout.from_width(51, 3)


def test_tables_survive_a_model_file() -> None:
    again = MixtureTables.from_dict(TABLES.as_dict())
    for name, table in TABLES.as_dict().items():
        assert again.as_dict()[name].tolist() == table.tolist()
    assert TABLES.exp[[0, 128, -1]].tolist() == [65536, round(65536 / np.e), 0]
    assert TABLES.inv_mantissa[[0, 16]].tolist() == [65536, 46341]
    assert TABLES.sigmoid[[0, 640, 1280, 1281]].tolist() == [0, 1 << 27, 1 << 28, 1 << 28]


@pytest.mark.parametrize(
    ("name", "index", "value"),
    [
        ("exp", 0, 65535),
        ("exp", 7, 70000),
        ("exp", -1, 1),
        ("exp", 3, -1),
        ("inv_mantissa", 31, 32768),
        ("inv_mantissa", 4, 65536),
        ("sigmoid", 0, 1),
        ("sigmoid", 700, 0),
        ("sigmoid", 1281, (1 << 28) + 1),
    ],
)
def test_a_table_that_forms_no_cdf_is_refused(name: str, index: int, value: int) -> None:
    arrays = {key: table.astype(np.int64) for key, table in TABLES.as_dict().items()}
    arrays[name][index] = value
    with pytest.raises(EntropyTableError, match=name):
        MixtureTables.from_dict(arrays)


def test_missing_or_misshapen_tables_are_refused() -> None:
    arrays = TABLES.as_dict()
    with pytest.raises(EntropyTableError, match="lacks the mixture table sigmoid"):
        MixtureTables.from_dict({key: arrays[key] for key in ("exp", "inv_mantissa")})
    with pytest.raises(EntropyTableError, match="inv_mantissa"):
        MixtureTables.from_dict({**arrays, "inv_mantissa": arrays["inv_mantissa"][:-1]})
    with pytest.raises(EntropyTableError, match="list of integers"):
        MixtureTables.from_dict({**arrays, "exp": arrays["exp"].astype(np.float64)})


def test_sigmoid_never_falls_and_stays_close_to_the_real_one() -> None:
    """At every table entry, at both ends of the line that leaves it and within; and beyond the saturation."""
    parts = np.unique(np.r_[0, 1, 2, np.arange(0, 32768, 4681), 32766, 32767])
    inside = (np.arange(1280)[:, None] * 32768 + parts).ravel() - kernels.T_LIMIT
    edges = np.r_[-(1 << 26), inside, kernels.T_LIMIT, kernels.T_LIMIT + 1, 1 << 26]
    # mant = 2^20 and shr = 20 make t = edge - mu
    values = np.array([int(kernels.sigmoid_at(v, 0, 1 << 20, 20, TABLES.sigmoid)) for v in edges.tolist()])
    assert np.all(np.diff(values) >= 0)
    assert (values[0], values[-1]) == (0, 1 << 28)
    exact = (1 << 28) / (1 + np.exp(-edges / (1 << kernels.T_BITS)))
    assert np.abs(values - exact).max() < 1.3e-5 * (1 << 28)  # h^2 / 8 max |sigma''|
    table = TABLES.sigmoid.astype(np.int64)
    assert np.abs(table[:1281] + table[1280::-1] - (1 << 28)).max() <= 1


RANGES = [[(0, 1)], [(-3, 252)], [(-32768, 32767)], [(0, 255), (5, 5), (-7, 100)], [(0, 255)] * 4]


@pytest.mark.parametrize("ranges", RANGES, ids=str)
@pytest.mark.parametrize("components", [1, 5])
def test_cdf_equals_the_reference_on_extremes(ranges: list[tuple[int, int]], components: int) -> None:
    case = adversarial(np.random.default_rng(7), 60, len(ranges), components, ranges)
    cums, freqs = intervals(*case.context, TABLES, case.symbols)
    head, skip, shift, lo, hi = case.plain()
    for i, symbols in enumerate(case.symbols.tolist()):
        pixel = reference.Pixel(head[i], skip[i], shift, lo, hi, PLAIN_TABLES)
        for c, x in enumerate(symbols):
            assert sum(pixel.pi) == 65536
            assert (cums[i, c], freqs[i, c]) == (pixel.cdf(x), pixel.cdf(x + 1) - pixel.cdf(x))
            pixel.accept(x)


@pytest.mark.parametrize(("lo", "hi"), [(0, 0), (0, 1), (-3, 252), (0, 65535), (-32768, 32767)])
def test_cdf_rises_strictly_over_the_whole_range(lo: int, hi: int) -> None:
    """All levels of one pixel: n rows with the same head, one for each symbol, tile 0 .. 2^28."""
    rng = np.random.default_rng(hi)
    symbols = np.arange(lo, hi + 1, dtype=np.int32)[:, None]
    n = len(symbols)
    for kind in range(6):
        case = (
            adversarial(rng, 1, 1, 5, [(lo, hi)])
            if kind
            else Case(np.zeros((1, 15), np.int32), np.zeros((1, 1), np.int64), [0], [lo], [hi], symbols[:1])
        )
        head, skip = np.repeat(case.head, n, 0), np.repeat(case.skip, n, 0)
        cums, freqs = intervals(head, skip, case.shift, [lo], [hi], TABLES, symbols)
        assert freqs.min() >= 1
        ends = cums[:, 0].astype(np.int64) + freqs[:, 0]
        assert cums[0, 0] == 0
        assert ends[-1] == 1 << 28
        assert np.array_equal(ends[:-1], cums[1:, 0])


def test_integer_cdf_costs_next_to_nothing_against_real_numbers() -> None:
    """Code length against the same mixture in float64, PixelCNN++ posterior included: below 0.01 %."""
    case = realistic(20000, 3, 5, 8, seed=3)
    n, components = len(case.head), 5
    layout = HeadLayout(3, components)
    weight = np.exp(case.head[:, layout.logits] / 128.0)
    weight /= weight.sum(1, keepdims=True)
    x = case.symbols.astype(np.float64)
    means: list[np.ndarray] = []
    exact = np.zeros((n, 3))
    for c in range(3):
        columns = slice(components * (1 + c), components * (2 + c))
        mean = (case.skip[:, c : c + 1] + case.head[:, columns]) / 256.0
        for j in range(c):
            start = layout.coefficients.start + (c * (c - 1) // 2 + j) * components
            mean = mean + case.head[:, start : start + components] / 256.0 * (x[:, j : j + 1] - means[j])
        means.append(mean)
        start = layout.scales.start + c * components
        scale = np.exp2(case.head[:, start : start + components] / 32.0)
        upper = np.where(
            x[:, c : c + 1] < 255, 1 / (1 + np.exp(-(x[:, c : c + 1] + 0.5 - mean) / scale)), 1.0
        )
        lower = np.where(x[:, c : c + 1] > 0, 1 / (1 + np.exp(-(x[:, c : c + 1] - 0.5 - mean) / scale)), 0.0)
        mass = upper - lower + 2.0**-28
        exact[:, c] = -np.log2((weight * mass).sum(1))
        weight = weight * mass
        weight /= weight.sum(1, keepdims=True)
    ours = ideal_bits(*case.context, TABLES, case.symbols)
    assert 3.5 < ours.mean() < 5
    assert abs(ours.sum() / exact.sum() - 1) < 1e-4


def test_one_level_costs_nothing() -> None:
    case = adversarial(np.random.default_rng(5), 50, 2, 3, [(9, 9), (-4, -4)])
    assert ideal_bits(*case.context, TABLES, case.symbols).sum() == 0
    assert case.encode() == b""
    assert np.array_equal(case.decode(b""), case.symbols)


def test_wrong_arguments_are_named() -> None:
    case = fixed(3, 2, [0], [0], [255])
    head, skip, shift, lo, hi = case.context
    symbols = case.symbols
    wrong: list[tuple[tuple[object, ...], str]] = [
        ((head.astype(np.int64), skip, shift, lo, hi, TABLES, symbols), "must be int32"),
        ((head, skip.astype(np.float64), shift, lo, hi, TABLES, symbols), "int32 or int64"),
        ((head[:2], skip, shift, lo, hi, TABLES, symbols), "are not"),
        ((head, skip, [17], lo, hi, TABLES, symbols), "shifts"),
        ((head, skip, [-1], lo, hi, TABLES, symbols), "shifts"),
        ((head, skip, [0, 0], lo, hi, TABLES, symbols), "one for each channel"),
        ((head, skip, shift, [1], [0], TABLES, symbols), "value range"),
        ((head, skip, shift, [0], [65536], TABLES, symbols), "value range"),
        ((head, skip, shift, [-131073], [-131072], TABLES, symbols), "value range"),
        ((head, skip, shift, lo, hi, TABLES, symbols + np.int32(256)), "outside"),
        ((head, skip, shift, lo, hi, TABLES, symbols[:, :0]), "Symbols must be"),
        ((head, skip, shift, lo, hi, TABLES, symbols.astype(np.uint8)), "Symbols must be"),
    ]
    for arguments, text in wrong:
        with pytest.raises(EntropyInputError, match=text):
            intervals(*arguments)  # type: ignore[arg-type]


UNCOMPILED = """
import numpy as np
from callic_archive.entropy import kernels
from callic_archive.entropy.mixture import check_parameters
from tests.unit.entropy.cases import TABLES as T, adversarial
assert not hasattr(kernels.interval, "py_func"), "numba must be off here"
np.seterr(all="raise")
rng = np.random.default_rng(11)
for ranges in ([(-131072, -65537), (65536, 131071), (0, 255)], [(0, 65535)]):
    case = adversarial(rng, 40, len(ranges), 3, ranges)
    p = check_parameters(*case.context)
    cums, freqs = np.empty_like(case.symbols), np.empty_like(case.symbols)
    kernels.pixel_intervals(p.head, p.skip, p.shift, p.lo, p.hi, T.exp, T.inv_mantissa, T.sigmoid,
                            case.symbols, cums, freqs)
    print(cums.ravel().tolist(), freqs.ravel().tolist())
"""


def test_no_int64_overflows_and_no_index_strays() -> None:
    """The kernels as plain Python: numpy raises on every int64 overflow and on every index beyond an end."""
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run(
        [sys.executable, "-c", UNCOMPILED],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rng = np.random.default_rng(11)
    lines = []
    for ranges in ([(-131072, -65537), (65536, 131071), (0, 255)], [(0, 65535)]):
        case = adversarial(rng, 40, len(ranges), 3, ranges)
        cums, freqs = intervals(*case.context, TABLES, case.symbols)
        lines.append(f"{cums.ravel().tolist()} {freqs.ravel().tolist()}")
    assert done.stdout.splitlines() == lines
