"""Model files and their bounds: what breaks one is refused by name, whatever the bytes."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load, save

from callic_archive.errors import DamagedModel, InexactModel, ModelError, UnknownModel
from callic_archive.model import weights as weights_module
from callic_archive.model.config import MGCFConfig, causal_taps
from callic_archive.model.packed_file import pack_model
from callic_archive.model.weights import (
    IntegerModel,
    IntegerWeights,
    Linear,
    ModelSet,
    check_exact,
    load_model,
    save_model,
    to_arrays,
)
from tests.unit.model.builders import CONFORMANCE, GRAY, limit_weights, random_weights, tiny_models

RAW = (CONFORMANCE / "model-rgb.safetensors").read_bytes()


def changed(name: str, change: Callable[[NDArray[np.int32]], None], part: str = "weight") -> IntegerWeights:
    """The weights at the limit, with one array of one layer changed in a copy."""
    weights = limit_weights()
    block = weights.blocks[0]
    layer = getattr(weights, name) if hasattr(weights, name) else getattr(block, name)
    array = getattr(layer, part).copy()
    change(array)
    layer = replace(layer, **{part: array})
    if hasattr(weights, name):
        return replace(weights, **{name: layer})
    return replace(weights, blocks=(replace(block, **{name: layer}),))


def grow(amount: int) -> Callable[[NDArray[np.int32]], None]:
    def change(array: NDArray[np.int32]) -> None:
        array.flat[0] += amount if array.flat[0] > 0 else -amount

    return change


# -- bounds -------------------------------------------------------------------------------------------------


def test_weights_at_the_limit_are_exact() -> None:
    check_exact(limit_weights())
    check_exact(limit_weights(shift=30, bias=True))


@pytest.mark.parametrize("layer", ["embed", "a", "v", "o", "up", "down", "dw"])
def test_one_more_unit_of_weight_breaks_the_bound(layer: str) -> None:
    part = "kernel" if layer == "dw" else "weight"
    # What whole weights leave of 2^24 is less than one unit of an input; dw's and embed's few inputs leave up to three.
    with pytest.raises(InexactModel, match=layer):
        check_exact(changed(layer, grow(3 if layer in ("dw", "embed") else 1), part))


@pytest.mark.parametrize("layer", ["embed", "a", "v", "o", "up", "down", "dw"])
def test_a_bias_that_could_leave_32_bits_breaks_the_bound(layer: str) -> None:
    def set_bias(array: NDArray[np.int32]) -> None:
        array[-1] = -((1 << 30) - 1)

    with pytest.raises(InexactModel, match=layer):
        check_exact(changed(layer, set_bias, "bias"))


@pytest.mark.parametrize("layer", ["embed", "a", "v", "o", "up", "down", "dw", "head"])
@pytest.mark.parametrize("value", [-1, 31])
def test_a_shift_out_of_range_breaks_the_bound(layer: str, value: int) -> None:
    def set_shift(array: NDArray[np.int32]) -> None:
        array[-1] = value

    with pytest.raises(InexactModel, match="shifts"):
        check_exact(changed(layer, set_shift, "shift"))


def test_the_head_has_a_bound_of_its_own() -> None:
    config = MGCFConfig(channels=1, dim=128, depth=1, kernel=3, mlp_ratio=2, mixtures=2)
    weights = random_weights(config, 1)
    check_exact(weights)
    huge = Linear(np.full((6, 128), 2**31 - 1, np.int32), weights.head.bias, weights.head.shift)
    with pytest.raises(InexactModel, match="head"):
        check_exact(replace(weights, head=huge))


def table(name: str, value: int) -> IntegerWeights:
    weights = limit_weights()
    holder: Any = weights.blocks[0] if name in ("swish", "gelu") else weights
    array = getattr(holder, name).copy()
    array.flat[7] = value
    if name in ("swish", "gelu"):
        return replace(weights, blocks=(replace(holder, **{name: array}),))
    return replace(weights, **{name: array})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("swish", 512), ("swish", -512), ("swish", -32768), ("gelu", 512), ("gelu", -32768), ("compand", -1),
        ("compand", 1280), ("rsqrt", 0), ("rsqrt", 1 << 24), ("skip", 1 << 20), ("skip", -(2**31)),
    ],
)  # fmt: skip
def test_a_table_that_leaves_its_range_breaks_the_bound(name: str, value: int) -> None:
    if name == "skip":
        with pytest.raises(InexactModel, match="skip"):
            check_exact(replace(limit_weights(), skip=np.full((1, 5), value, np.int32)))
        return
    with pytest.raises(InexactModel, match="table"):
        check_exact(table(name, value))


def test_a_table_of_nothing_but_the_least_int16_breaks_the_bound() -> None:
    block = limit_weights().blocks[0]
    least = np.full(4096, -32768, np.int16)
    with pytest.raises(InexactModel, match="10-bit"):
        check_exact(replace(limit_weights(), blocks=(replace(block, swish=least),)))


@pytest.mark.parametrize("eps", [0, (1 << 14) - 1, 1 << 40])
def test_epsilon_has_bounds(eps: int) -> None:
    with pytest.raises(InexactModel, match="epsilon"):
        check_exact(replace(limit_weights(), eps=eps))


@pytest.mark.parametrize("shift", [-1, 21])
def test_the_shift_of_the_product_has_bounds(shift: int) -> None:
    block = replace(limit_weights().blocks[0], product_shift=shift)
    with pytest.raises(InexactModel, match="product"):
        check_exact(replace(limit_weights(), blocks=(block,)))


@pytest.mark.parametrize("dim", [1, 3, 24])
def test_a_dim_that_is_no_power_of_two_breaks_the_bound(dim: int) -> None:
    config = MGCFConfig(channels=1, dim=dim, depth=1, kernel=3, mixtures=1)
    with pytest.raises(InexactModel, match="power of two"):
        check_exact(random_weights(config, 1))


@pytest.mark.parametrize(
    "sizes",
    [
        {"channels": 0}, {"channels": 5}, {"dim": 0}, {"dim": 8192}, {"depth": 0}, {"depth": 65},
        {"kernel": 4}, {"kernel": 1}, {"kernel": 17}, {"mlp_ratio": 0}, {"mlp_ratio": 17},
        {"mixtures": 0}, {"mixtures": 17},
    ],
)  # fmt: skip
def test_sizes_have_bounds(sizes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"channels|kernel|dim"):
        MGCFConfig(**sizes)


def test_causal_taps_follow_the_scan() -> None:
    assert causal_taps(3, include_group=False) == [(-1, -1), (-1, 0), (-1, 1), (0, -1)]
    assert causal_taps(3, include_group=True) == [(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 0)]
    seven = causal_taps(7, include_group=True)
    assert (1, -3) in seven
    assert (1, -2) in seven
    assert (1, -1) not in seven
    assert (-1, 2) in seven
    assert (-1, 3) not in seven


# -- files --------------------------------------------------------------------------------------------------


def edited(change: Callable[[dict[str, NDArray[Any]], dict[str, Any]], None]) -> bytes:
    """The file of ``tiny-rgb`` with its arrays or its document changed."""
    arrays = {k: v.copy() for k, v in load(RAW).items()}
    length = int.from_bytes(RAW[:8], "little")
    document = json.loads(json.loads(RAW[8 : 8 + length])["__metadata__"]["callic"])
    change(arrays, document)
    return save(arrays, metadata={"callic": json.dumps(document)})


def test_save_and_load_give_the_same_weights(tmp_path: Path) -> None:
    weights = tiny_models().for_channels(3)
    assert weights is not None
    path = tmp_path / "m.safetensors"
    digest = save_model(path, "again", weights.weights, weights.mixture, {"note": "x"})
    model = load_model(path, digest=digest)
    assert (model.name, model.digest, model.channels, model.path) == ("again", digest, 3, path)
    assert model.file_bytes() == path.read_bytes()
    assert model.metadata["note"] == "x"
    first, second = to_arrays(weights.weights), to_arrays(model.weights)
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[k], second[k]) and first[k].dtype == second[k].dtype for k in first)
    assert model.weights.fractions == weights.weights.fractions
    assert load_model(path.read_bytes()).digest == digest


def test_saving_refuses_what_the_stored_types_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(InexactModel, match="stored form"):
        save_model(tmp_path / "m", "x", limit_weights(), {}, {})
    assert not (tmp_path / "m").exists()


def test_another_digest_than_the_expected_one_is_damage() -> None:
    with pytest.raises(DamagedModel, match="SHA-256"):
        load_model(RAW, digest="00" * 32)


def test_a_missing_file_is_an_unknown_model(tmp_path: Path) -> None:
    with pytest.raises(UnknownModel, match="nowhere"):
        load_model(tmp_path / "nowhere")


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 100, 2000, len(RAW) // 2, len(RAW) - 1])
def test_a_truncated_file_is_damage(length: int) -> None:
    with pytest.raises(DamagedModel):
        load_model(RAW[:length])


def test_bytes_after_the_end_are_damage() -> None:
    with pytest.raises(DamagedModel):
        load_model(RAW + b"\0")


def test_random_bytes_are_damage() -> None:
    rng = np.random.default_rng(3)
    for length in (1, 8, 50, 5000):
        with pytest.raises(DamagedModel):
            load_model(rng.bytes(length))


def test_damaged_headers_never_crash() -> None:
    """Any byte of the JSON header may change: the file is refused, or is still a whole model."""
    rng = np.random.default_rng(4)
    end = 8 + int.from_bytes(RAW[:8], "little")
    for position in rng.integers(0, end, 300):
        raw = bytearray(RAW)
        raw[position] ^= 1 << int(rng.integers(0, 8))
        try:
            load_model(bytes(raw))
        except ModelError:
            continue


def drop(name: str) -> Callable[..., None]:
    return lambda arrays, document: arrays.pop(name)


def put(key: str, value: Any) -> Callable[..., None]:
    def change(arrays: dict[str, NDArray[Any]], document: dict[str, Any]) -> None:
        target = document
        *path, last = key.split("/")
        for part in path:
            target = target[part]
        target[last] = value

    return change


def lose(key: str) -> Callable[..., None]:
    def change(arrays: dict[str, NDArray[Any]], document: dict[str, Any]) -> None:
        target = document
        *path, last = key.split("/")
        for part in path:
            target = target[part]
        del target[last]

    return change


DEEP = "[" * 100_000
STRUCTURE = {
    "array missing": drop("0.a.weight"),
    "unknown array": lambda arrays, _: arrays.update(more=np.zeros(3, np.int8)),
    "wrong shape": lambda arrays, _: arrays.update({"0.a.bias": arrays["0.a.bias"][:-1].copy()}),
    "wrong type": lambda arrays, _: arrays.update({"0.a.weight": arrays["0.a.weight"].astype(np.int16)}),
    "float array": lambda arrays, _: arrays.update({"0.a.weight": arrays["0.a.weight"].astype(np.float32)}),
    "version": put("version", 2),
    "no version": lose("version"),
    "no name": lose("name"),
    "no config": lose("config"),
    "config no object": put("config", [1, 2]),
    "size missing": lose("config/mixtures"),
    "size unknown": put("config/more", 1),
    "size a float": put("config/dim", 16.0),
    "size a truth value": put("config/depth", True),
    "size a text": put("config/dim", "16"),
    "size beyond bounds": put("config/depth", 10**12),
    "other size": put("config/dim", 32),
    "eps a float": put("eps", 1e300),
    "eps infinite": put("eps", float("inf")),
    "eps a text": put("eps", "16384"),
    "product_shift short": put("product_shift", []),
    "product_shift of texts": put("product_shift", ["1"]),
    "fractions missing": lose("fractions"),
    "fractions of a block missing": lose("fractions/0"),
    "fraction missing": lose("fractions/0/dw"),
    "fraction a float": put("fractions/0/a", 3.5),
    "fraction huge": put("fractions/0/a", 10**30),
    "stream_fraction missing": lose("stream_fraction"),
}


@pytest.mark.parametrize("name", STRUCTURE)
def test_a_file_of_another_structure_is_damage(name: str) -> None:
    with pytest.raises(DamagedModel):
        load_model(edited(STRUCTURE[name]))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "7", '"x"', DEEP, '{"version": 1}', '{"a": ' * 50_000], ids=range(9)
)
def test_a_document_that_is_none_is_damage(text: str) -> None:
    with pytest.raises(DamagedModel):
        load_model(save(load(RAW), metadata={"callic": text}))


def test_a_file_without_document_is_damage() -> None:
    with pytest.raises(DamagedModel):
        load_model(save(load(RAW)))


def test_a_file_that_breaks_a_bound_is_inexact() -> None:
    with pytest.raises(InexactModel):
        load_model(edited(lambda arrays, _: arrays["0.a.shift"].fill(31)))
    with pytest.raises(InexactModel):
        load_model(edited(put("eps", 5)))


# -- sets ---------------------------------------------------------------------------------------------------


def test_models_are_found_by_digest_prefix_and_channels() -> None:
    models = tiny_models()
    assert len(models) == 2
    assert [m.name for m in models] == ["tiny-gray", "tiny-rgb"]
    for model in models:
        assert models.get(model.digest) is model
        assert models.find(bytes.fromhex(model.digest)[:8]) is model
        assert models.for_channels(model.channels) is model
    assert models.for_channels(4) is None
    with pytest.raises(UnknownModel, match="abababababababab"):
        models.get("ab" * 32)
    with pytest.raises(UnknownModel, match="abababababababab"):
        models.find(b"\xab" * 8)


def test_the_first_of_two_models_of_a_kind_is_preferred() -> None:
    gray = tiny_models().for_channels(1)
    assert gray is not None
    other = IntegerModel("other", "cd" * 32, random_weights(GRAY, 1), gray.mixture, {})
    assert ModelSet([other, gray]).for_channels(1) is other
    assert ModelSet([gray, other]).for_channels(1) is gray


SMALLER = ["rgb8-small", "gray16-small", "rgb8-tiny", "gray16-tiny", "rgb8-nano", "gray16-nano"]


def test_the_smaller_ones_are_all_but_the_largest_of_their_kind() -> None:
    models = ModelSet.default()
    assert [m.name for m in models] == ["rgb8", "gray16", *SMALLER]
    assert [m.name for m in models.smaller()] == SMALLER
    assert [m.name for m in models.smaller().smaller().smaller().smaller()] == ["rgb8-nano", "gray16-nano"]
    assert [m.name for m in tiny_models().smaller()] == ["tiny-gray", "tiny-rgb"]


def test_small_models_take_a_third_of_the_large_ones_in_archives_at_most() -> None:
    sizes = {m.name: len(pack_model(Path(str(m.path)).read_bytes())) for m in ModelSet.default()}
    for name in ("rgb8", "gray16"):
        assert sizes[f"{name}-small"] < sizes[name] / 3


def test_the_shipped_models_are_whole_and_exact() -> None:
    models = list(ModelSet.default())
    assert {m.channels for m in models} == {1, 3}
    for model in models:
        assert set(model.mixture) == {"exp", "inv_mantissa", "sigmoid"}


@pytest.mark.parametrize("text", [None, "", "[1, 2]", '{"rgb8": "00"}'])
def test_a_damaged_package_is_named(
    text: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "weights_data").mkdir()
    (tmp_path / "weights_data/rgb8.safetensors").write_bytes(RAW)
    if text is not None:
        (tmp_path / "weights_data/digests.json").write_text(text)
    monkeypatch.setattr(weights_module, "__file__", str(tmp_path / "weights.py"))
    with pytest.raises(DamagedModel):
        ModelSet.default()


def test_models_come_from_paths_too() -> None:
    models = ModelSet.from_paths([CONFORMANCE / "model-gray.safetensors"])
    assert [m.name for m in models] == ["tiny-gray"]


def test_a_model_is_read_out_of_the_form_that_archives_carry_it_in(tmp_path: Path) -> None:
    path = tmp_path / "m.model.xz"
    path.write_bytes(pack_model(RAW))
    assert load_model(path).digest == hashlib.sha256(RAW).hexdigest()


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        RAW,
        pack_model(RAW)[:-9],
        pack_model(RAW) + b"more",
        pack_model(RAW[:-3]),
    ],
    ids=["empty", "not compressed", "truncated", "more behind it", "model truncated"],
)
def test_a_damaged_stream_is_a_damaged_model(packed: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.model.xz"
    path.write_bytes(packed)
    with pytest.raises(DamagedModel, match=re.escape(str(path))):
        load_model(path)


def test_no_stream_allocates_what_it_merely_promises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.model.xz"
    path.write_bytes(pack_model(RAW))
    monkeypatch.setattr(weights_module, "MAX_FILE", len(RAW) - 1)
    with pytest.raises(DamagedModel, match="at most"):
        load_model(path)
