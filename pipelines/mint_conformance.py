"""Mint the conformance vectors of the codestream: small ones with their pixels, broken ones by error code.

    python -m pipelines.mint_conformance            # new vectors with the models that are there
    python -m pipelines.mint_conformance --models   # new models first, then everything
    python -m pipelines.mint_conformance --models --only guided   # this one of them

A test never mints: ``tests/conformance/`` is committed, and a missing file fails. The models are tiny and
have nothing to do with the shipped ones, so the vectors outlive every retraining. What lies there is read by
every later version.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray

from callic_archive.codec.adapter_syntax import write_adapter
from callic_archive.codec.codestream import Codestream, GroupHeader, parse, serialise
from callic_archive.codec.decoder import decode_image
from callic_archive.codec.encoder import EncodeOptions, encode_image
from callic_archive.codec.engine import mixture_tables
from callic_archive.entropy.mixture import MixtureTables
from callic_archive.errors import CallicError
from callic_archive.images.planes import Packing
from callic_archive.model.adapter import Adapter, AdapterShape
from callic_archive.model.config import MGCFConfig
from callic_archive.model.mgcf import MGCF, PlaneStats
from callic_archive.model.quantize import quantize
from callic_archive.model.weights import IntegerModel, ModelSet, save_model

Image = NDArray[np.generic]
ROOT = Path(__file__).parents[1] / "tests/conformance"
CONFIGS = {
    "gray": MGCFConfig(channels=1, dim=16, depth=2, kernel=5, mlp_ratio=2, mixtures=3),
    "rgb": MGCFConfig(channels=3, dim=16, depth=1, kernel=7, mlp_ratio=4, mixtures=2),
    "guided": MGCFConfig(channels=1, dim=16, depth=1, kernel=5, mlp_ratio=2, mixtures=2, guides=1),
}


# -- models ----------------------------------------------------------------------------------------


def tiny_model(config: MGCFConfig, seed: int) -> MGCF:
    """A float model with random weights whose outputs depend on the pixels (the usual start hardly does)."""
    torch.manual_seed(seed)
    model = MGCF(config)
    with torch.no_grad():
        model.head.weight.mul_(6.0)
        if config.guides:
            model.embed.weight[:, 6:].uniform_(-0.2, 0.2)
        for name, parameter in model.named_parameters():
            if "norm" in name or name.endswith("bias"):
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def mint_models(only: str | None) -> None:
    """Write the tiny models, or one of them, and one whose mixture tables are broken."""
    rng = np.random.default_rng(7)
    for name, config in CONFIGS.items():
        crops = [scene(rng, 48, 48, config.channels, 255) for _ in range(4)]
        if only not in (None, name):
            continue
        levels = torch.from_numpy(np.stack(crops).transpose(0, 3, 1, 2).astype(np.float32))
        weights = quantize(
            tiny_model(config, seed=config.channels), [(levels, PlaneStats.eight_bit(len(levels)))]
        )
        tables = dict(MixtureTables.build().as_dict())
        note = {"note": "random weights, for conformance tests only"}
        save_model(ROOT / f"model-{name}.safetensors", f"tiny-{name}", weights, tables, note)
        if name == "gray":
            broken = tables | {"exp": tables["exp"][::-1].copy()}
            save_model(ROOT / "model-gray-tables.safetensors", "tiny-broken", weights, broken, note)


# -- images ----------------------------------------------------------------------------------------


def scene(rng: np.random.Generator, height: int, width: int, channels: int, top: int) -> NDArray[np.int64]:
    """A synthetic picture (height, width, channels) in 0..top: slopes, an edge, correlated bands, noise."""
    i, j = np.indices((height, width)) / max(height, width)
    base = 0.35 + 0.25 * np.sin(5 * i + 2 * j) + 0.3 * (i + 1.7 * j > 1.1)
    bands = [base * (1 - 0.15 * c) + 0.1 * c * j for c in range(channels)]
    noise = rng.normal(0, 0.02, (height, width, 1)) + rng.normal(0, 0.01, (height, width, channels))
    return np.clip(np.rint((np.stack(bands, axis=2) + noise) * top), 0, top).astype(np.int64)


def images() -> dict[str, tuple[Image, EncodeOptions]]:
    """The images of the good vectors, and how each is coded."""
    rng = np.random.default_rng(2024)
    small = EncodeOptions(tile=16, patch=8, threads=1)

    def picture(h: int, w: int, c: int, dtype: str, top: int) -> Image:
        values = scene(rng, h, w, c, top).astype(dtype)
        return values if c > 1 else values[:, :, 0]

    gray, rgb = picture(13, 9, 1, "u1", 255), picture(11, 14, 3, "u1", 255)
    signed = (scene(rng, 12, 17, 1, 4000)[:, :, 0] - 1024).astype(np.int16)
    sparse = (scene(rng, 30, 34, 1, 60)[:, :, 0] * 1057 + 11).astype(np.uint16)
    opaque = np.dstack([picture(9, 12, 3, "u1", 255), np.full((9, 12), 255, np.uint8)])
    extremes = (rng.integers(0, 2, (8, 9)) * 65535).astype(np.uint16)
    later = np.random.default_rng(2026)  # its own, so that older images stay as they are
    bands = scene(later, 20, 22, 6, 50000).astype(np.uint16)
    infrared = scene(later, 19, 21, 4, 255).astype(np.uint8)
    infrared[:, :, 3] = 255 - infrared[:, :, 0] // 2 - infrared[:, :, 1] // 3
    bands[:6, :9] = infrared[12:, 15:] = 0  # no data
    return {
        "gray8": (gray, EncodeOptions()),
        "gray8_1x1": (np.array([[77]], np.uint8), EncodeOptions()),
        "gray8_1xN": (picture(1, 37, 1, "u1", 255), EncodeOptions()),
        "gray8_Nx1": (picture(37, 1, 1, "u1", 255), EncodeOptions()),
        "gray8_one_channel": (gray[:5, :6, None], EncodeOptions()),
        "gray16": (picture(15, 10, 1, "u2", 65535), EncodeOptions()),
        "gray16_extremes": (extremes, EncodeOptions()),
        "int16": (signed, EncodeOptions()),
        "rgb8": (rgb, EncodeOptions()),
        "rgb16": (picture(9, 8, 3, "u2", 40000), EncodeOptions()),
        "two_channels": (picture(7, 8, 2, "u1", 255), EncodeOptions()),
        "four_channels": (picture(7, 8, 4, "u1", 255), EncodeOptions()),
        "constant_plane": (opaque, EncodeOptions()),
        "constant_image": (np.full((130, 3, 3), 1234, np.uint16), EncodeOptions()),
        "channel_copies": (np.dstack([gray, gray, gray]), EncodeOptions()),
        "value_map": (sparse, EncodeOptions()),
        "tiles": (picture(23, 35, 1, "u1", 255), EncodeOptions(tile=16, patch=16)),
        "tiles_patches": (picture(25, 19, 3, "u1", 255), small),
        "patches": (picture(21, 22, 1, "u2", 4095), EncodeOptions(patch=9)),
        "bands": (bands, EncodeOptions(tile=12, patch=12)),
        "bands_signed": ((bands[:, :, :3].astype(np.int32) - 30000).astype(np.int16), EncodeOptions()),
        "infrared": (infrared, EncodeOptions()),
        "torchac": (rgb[:6, :7], EncodeOptions(coder="torchac")),
        "torchac_tiles": (gray, replace(small, coder="torchac")),
    }


# -- adapters --------------------------------------------------------------------------------------


def random_adapter(model: IntegerModel, shape: AdapterShape, spread: int, seed: int) -> Adapter:
    """An adapter of random small factor differences; one factor is left alone altogether."""
    rng = np.random.default_rng(seed)
    factors = {
        name: (rng.integers(-spread, spread + 1, size) * (rng.random(size) < 0.4)).astype(np.int32)
        for name, size in shape.factors(model.weights.config).items()
    }
    last = list(factors)[-1]
    factors[last] = np.zeros_like(factors[last])
    return write_adapter(model.digest, shape, factors, mixture_tables(model))


def with_adapter(image: Image, models: ModelSet, adapter: Adapter, *, inside: bool) -> bytes:
    """``image`` coded with ``adapter``, whether or not that pays."""
    model = models.get(adapter.model_digest)
    only = ModelSet([model])
    plain = parse(encode_image(image, models=only))
    adapted = _encode_forced(image, only, adapter)
    field = adapter.payload if inside else _prefix(adapter)
    under = _prefix(adapter.under) if adapter.under is not None else b""
    group = replace(plain.groups[0], adapter=field, inside=inside, under=under)
    return serialise(replace(plain, groups=(group,), streams=adapted.streams))


def _prefix(adapter: Adapter) -> bytes:
    return bytes.fromhex(adapter.digest)[:8]


def _encode_forced(image: Image, models: ModelSet, adapter: Adapter) -> Codestream:
    from unittest.mock import patch

    with patch("callic_archive.codec.encoder.choose_adapter", lambda *_: adapter):
        return parse(encode_image(image, models=models))


# -- broken codestreams ----------------------------------------------------------------------------


def header_length(raw: bytes) -> int:
    """Bytes of the header without its CRC."""
    return len(raw) - 4 - sum(len(t) for group in parse(raw).streams for t in group)


def edited(raw: bytes, at: int, new: bytes, *, cut: int | None = None) -> bytes:
    """``raw`` with ``new`` at ``at`` of its header in place of ``cut`` bytes, its CRC made right."""
    end = header_length(raw)
    header = raw[:at] + new + raw[at + (len(new) if cut is None else cut) : end]
    return header + zlib.crc32(header).to_bytes(4, "little") + raw[end + 4 :]


def resealed(adapter: bytes) -> bytes:
    """An adapter with its CRC made right."""
    return adapter[:-4] + zlib.crc32(adapter[:-4]).to_bytes(4, "little")


def bad_codestreams(
    good: dict[str, bytes], models: ModelSet, adapters: dict[str, Adapter], broken_tables: bytes
) -> dict[str, bytes]:
    """Broken codestreams, each named by the code with which it must be refused."""
    gray, rgb, deep = good["gray8"], good["rgb8"], good["gray16"]
    fields = 8 + 6  # magic, version, type, coder, channels; then six sizes of one byte each
    group = fields + 8  # the digest comes before the first plane group of a gray image

    def with_group(raw: bytes, **changes: Any) -> bytes:
        stream = parse(raw)
        return serialise(replace(stream, groups=(replace(stream.groups[0], **changes), *stream.groups[1:])))

    def with_stream(change: Callable[[bytes], bytes]) -> bytes:
        stream = parse(gray)
        return serialise(replace(stream, streams=((change(stream.streams[0][0]),),)))

    def with_packing(body: bytes) -> bytes:
        # Kind 0, offset 0 (1 byte), low and range (1 or 2 bytes each) are replaced by ``body``.
        old = parse(gray).groups[0].packings[0]
        size = 2 + _varint_size(2 * old.low) + _varint_size(old.high - old.low)
        return edited(gray, group + 1, body, cut=size)

    def value_map(first: int, count: int, packed: bytes) -> bytes:
        return b"\x01" + _varint(2 * first) + _varint(count - 1) + _varint(len(packed)) + packed

    def predicted(planes: tuple[int, ...], weights: tuple[int, ...] | None = None, **changes: Any) -> bytes:
        stream = parse(good["infrared"])
        last = stream.groups[-1]
        assert last.prediction is not None
        some = weights if weights is not None else last.prediction.weights[: len(planes)]
        found = replace(last.prediction, planes=planes, weights=some, **changes)
        group = replace(last, prediction=found)
        return serialise(replace(stream, groups=(*stream.groups[:-1], group)))

    def with_guide(**changes: Any) -> bytes:
        stream = parse(good["guided"])
        return serialise(replace(stream, groups=(stream.groups[0], replace(stream.groups[1], **changes), *stream.groups[2:])))

    guided_by = parse(good["guided"]).groups[1].prediction
    assert guided_by is not None

    def inside(payload: bytes) -> bytes:
        return with_group(good["adapter_inside"], adapter=payload)

    mine = adapters["gray"].payload
    rgb_digest = bytes.fromhex(adapters["rgb"].model_digest)[:8]
    wide = AdapterShape(1, 0, 0)
    model = models.for_channels(1)
    assert model is not None
    huge = {n: np.full(s, 1023, np.int32) for n, s in wide.factors(model.weights.config).items()}
    tail = len(gray) - len(parse(gray).streams[0][0])
    last = group + 1 + len(_packing(parse(gray).groups[0].packings[0]))  # shift, depth, model, adapter kind
    return {
        "E200_model_of_other_planes": with_group(gray, model=rgb_digest),
        "E200_guide_for_a_model_without": with_guide(model=bytes.fromhex(model.digest)[:8]),
        "E220_guided_by_itself": with_guide(prediction=replace(guided_by, planes=(1,))),
        "E220_guided_jointly": edited(rgb, fields + 2 + 8, b"\x03\x01\x00\x00", cut=1),
        "E211_stream_cut": with_stream(lambda s: s[: len(s) // 2]),
        "E212_stream_goes_on": with_stream(lambda s: s + b"\x01"),
        "E212_stream_of_nothing_to_code": serialise(
            replace(parse(gray), groups=(replace(parse(gray).groups[0], packings=(Packing(0, 9, 9),)),))
        ),
        "E213_stream_beyond_all_intervals": with_stream(lambda s: b"\xff" * len(s)),
        "E214_mixture_tables": with_group(gray, model=broken_tables),
        "E215_torchac_too_many_levels": edited(deep, 6, b"\x01"),
        "E220_empty": b"",
        "E220_truncated_header": gray[: group + 3],
        "E220_truncated_stream": gray[:-1],
        "E220_trailing_bytes": gray + b"\0",
        "E220_magic": b"\x8fCLX" + gray[4:],
        "E220_header_crc": gray[: tail - 1] + bytes([gray[tail - 1] ^ 1]) + gray[tail:],
        "E220_header_bit": gray[: fields + 3] + bytes([gray[fields + 3] ^ 16]) + gray[fields + 4 :],
        "E220_tile_crc": gray[:-1] + bytes([gray[-1] ^ 1]),
        "E220_sample_type": edited(gray, 5, b"\x04"),
        "E220_coder": edited(gray, 6, b"\x02"),
        "E220_channels_that_are_not_there": edited(gray, 7, b"\x05"),
        "E220_predicted_from_itself": predicted(planes=(3,)),
        "E220_predicted_from_a_plane_that_is_not_there": predicted(planes=(9,)),
        "E220_predicted_from_four": predicted(planes=(0, 1, 2, 0), weights=(1, 1, 1, 1)),
        "E220_predicted_from_none": predicted(planes=(), weights=()),
        "E220_weight_too_large": predicted(planes=(0,), weights=(65536,)),
        "E220_offset_too_large": predicted(planes=(0,), offset=65536),
        "E220_predicted_level_beyond_its_range": predicted(planes=(0,), weights=(65535,)),
        "E220_predicted_jointly": edited(rgb, fields + 2 + 8, b"\x02\x01\x00\x00", cut=1),
        "E220_no_rows": edited(gray, 8, b"\0"),
        "E220_no_tile": edited(gray, 10, b"\0"),
        "E220_no_patch": edited(gray, 13, b"\0"),
        "E220_tile_above_4096": edited(gray, 10, _varint(4097), cut=1),
        "E220_too_many_pixels": edited(good["constant_image"], 8, _varint((1 << 31) - 1) * 2, cut=3),
        "E220_number_not_shortest": edited(gray, 8, bytes([gray[8] | 0x80, 0]), cut=1),
        "E220_number_too_long": edited(gray, 8, b"\x80" * 10 + b"\1", cut=1),
        "E220_copy_of_later_channel": edited(rgb, fields, b"\x02"),
        "E220_copy_of_a_copy": edited(good["four_channels"], fields, b"\x00\x01\x03"),
        "E220_too_few_bytes_for_tiles": edited(gray, 10, b"\x01\x01"),
        "E220_group_kind": edited(gray, group, b"\x02"),
        "E220_packing_kind": edited(gray, group + 1, b"\x02"),
        "E220_constant_of_two_levels": edited(gray, group, b"\x00"),
        "E220_range_below_type": with_packing(_packing(Packing(-1, 0, 255))),
        "E220_range_above_type": with_packing(_packing(Packing(1, 0, 255))),
        "E220_level_below_zero": with_packing(_packing(Packing(3, -1, 250))),
        "E220_map_not_deflate": with_packing(value_map(0, 3, b"\x00\x01\x02\x03")),
        "E220_map_too_short": with_packing(value_map(0, 4, zlib.compress(bytes(2), 9))),
        "E220_map_too_long": with_packing(value_map(0, 2, zlib.compress(bytes(5), 9))),
        "E220_map_goes_on": with_packing(value_map(0, 3, zlib.compress(bytes(2), 9) + b"\0")),
        "E220_map_bomb": with_packing(value_map(0, 2, zlib.compress(bytes(1 << 20), 9))),
        "E220_map_above_type": with_packing(value_map(254, 3, zlib.compress(bytes(2), 9))),
        "E220_shift_16": edited(gray, last, b"\x10"),
        "E220_depth_7": edited(gray, last + 1, b"\x07"),
        "E220_depth_17": edited(gray, last + 1, b"\x11"),
        "E220_levels_beyond_depth": edited(
            deep, group + 1 + len(_packing(parse(deep).groups[0].packings[0])) + 1, b"\x08"
        ),
        "E220_adapter_kind": edited(gray, last + 10, b"\x04"),
        "E220_adapter_of_no_bytes": edited(gray, last + 10, b"\x01\x00", cut=1),
        "E221_version": gray[:4] + b"\x02" + gray[5:],
        "E222_pixel_digest": edited(gray, fields, bytes([gray[fields] ^ 1])),
        "E222_other_stream": serialise(
            replace(parse(gray), streams=((_other_stream(models, parse(gray)),),))
        ),
        "E301_unknown_model": with_group(gray, model=b"\xaa" * 8),
        "E220_adapter_of_no_bytes_on_another": edited(gray, last + 10, b"\x03" + bytes(8) + b"\x00", cut=1),
        "E301_unknown_adapter_under": with_group(good["adapter_on_named"], under=b"\xaa" * 8),
        "E304_adapter_under_of_other_model": with_group(
            good["adapter_on_named"], under=bytes.fromhex(adapters["rgb"].digest)[:8]
        ),
        "E301_unknown_adapter": with_group(good["adapter_named"], adapter=b"\xaa" * 8),
        "E302_adapter_crc": inside(mine[:-1] + bytes([mine[-1] ^ 1])),
        "E302_adapter_short": inside(mine[:7]),
        "E302_adapter_magic": inside(resealed(b"\x8fCLX" + mine[4:])),
        "E302_adapter_version": inside(resealed(mine[:4] + b"\x02" + mine[5:])),
        "E302_adapter_rank": inside(resealed(mine[:13] + b"\x41" + mine[14:])),
        "E302_adapter_scale": inside(resealed(mine[:16] + b"\x40" + mine[17:])),
        "E302_adapter_goes_on": inside(resealed(mine[:-4] + b"\x00" + mine[-4:])),
        "E302_adapter_stream": inside(resealed(mine[:-5] + bytes([mine[-5] ^ 0x80]) + mine[-4:])),
        "E302_adapter_header_cut": inside(resealed(mine[:14] + mine[-4:])),
        "E303_adapter_breaks_bound": inside(
            write_adapter(model.digest, wide, huge, mixture_tables(model)).payload
        ),
        "E304_adapter_of_other_model": with_group(
            good["adapter_named"], adapter=bytes.fromhex(adapters["rgb"].digest)[:8]
        ),
    }


def _other_stream(models: ModelSet, stream: Codestream) -> bytes:
    """A valid stream of other pixels in the same value range."""
    image = decode_image(serialise(stream), models=models).astype(np.int32)
    packing = stream.groups[0].packings[0]
    changed = image.copy()
    inner = np.argwhere((image > packing.low) & (image < packing.high))[0]
    changed[tuple(inner)] = packing.low
    return parse(encode_image(changed.astype(stream.dtype), models=models)).streams[0][0]


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _varint_size(value: int) -> int:
    return len(_varint(value))


def _packing(packing: Packing) -> bytes:
    zigzag = [2 * v if v >= 0 else -2 * v - 1 for v in (packing.offset, packing.low)]
    return b"\0" + b"".join(map(_varint, [*zigzag, packing.high - packing.low]))


# -- the command -----------------------------------------------------------------------------------


def good_codestreams(models: ModelSet, adapters: Sequence[Adapter]) -> dict[str, tuple[bytes, Image]]:
    """Codestream and pixels of every good vector."""
    found: dict[str, tuple[bytes, Image]] = {}
    sources = images()
    for name, (image, options) in sources.items():
        jointly = ModelSet([m for m in models if m.channels == 3]) if name == "rgb16" else models
        found[name] = encode_image(image, models=jointly, options=options), image
    gray = models.get(adapters[0].model_digest)
    on_named = replace(random_adapter(gray, AdapterShape(1, 2, 1), 9, 5), under=adapters[0])
    for name, image, adapter, inside in (
        ("adapter_inside", sources["gray8"][0], adapters[0], True),
        ("adapter_named", sources["gray16"][0], adapters[0], False),
        ("adapter_rgb", sources["rgb8"][0], adapters[1], True),
        ("adapter_on_named", sources["gray8"][0], on_named, True),
    ):
        found[name] = with_adapter(image, models, adapter, inside=inside), image
    return found


def guided_codestreams(model: IntegerModel) -> dict[str, tuple[bytes, Image]]:
    """Planes beside a guide: a likeness of what is coded, and what was subtracted from it, in tiles and patches."""
    from unittest.mock import patch

    rng, only = np.random.default_rng(2027), ModelSet([model])
    slices = scene(rng, 21, 26, 1, 3000) + rng.integers(0, 40, (21, 26, 3))
    slices[3:6, 3:9] = 0
    bands = scene(rng, 22, 19, 2, 50000)
    bands[:, :, 1] = bands[:, :, 0] // 2 + rng.integers(0, 90, (22, 19))
    found: dict[str, tuple[bytes, Image]] = {}
    planning = "callic_archive.codec.planning"
    likes, draws = slices.astype(np.uint16), bands.astype(np.uint16)
    with patch(f"{planning}._Planner.bits", lambda _, group: 1.0 - bool(group.prediction)):  # whether that pays or not
        found["guided"] = encode_image(likes, models=only, options=EncodeOptions(tile=16, patch=10)), likes
        with patch(f"{planning}.fit_likeness", lambda *_: None):
            found["guided_predicted"] = encode_image(draws, models=only), draws
    kinds = {name: [g.prediction and g.prediction.subtracted for g in parse(raw).groups] for name, (raw, _) in found.items()}
    if kinds != {"guided": [None, False, False], "guided_predicted": [None, True]}:
        raise click.ClickException(f"the guided vectors do not have what they are there for: {kinds}")
    return found


def _has_its_feature(good: dict[str, tuple[bytes, Image]]) -> bool:
    """Whether the encoder's choices gave the vectors what their names say."""
    streams = {name: parse(raw) for name, (raw, _) in good.items()}

    def group(name: str) -> GroupHeader:
        return streams[name].groups[0]

    return (
        group("value_map").packings[0].values is not None
        and streams["channel_copies"].copies == (0, 0, 0)
        and not streams["constant_plane"].groups[1].learned
        and not group("constant_image").learned
        and len(streams["tiles_patches"].streams[0]) == 4
        and streams["patches"].patch == (9, 9)
        and group("rgb16").shift > 0
        and group("int16").packings[0].offset < 0
        and streams["bands"].alone
        and all(g.prediction is not None for g in streams["bands"].groups[1:])
        and streams["bands_signed"].groups[-1].prediction is not None
        and not streams["infrared"].alone
        and len(streams["infrared"].groups) == 2
        and streams["infrared"].groups[1].prediction is not None
    )


@click.command()
@click.option("--models", "new_models", is_flag=True, help="Also make the tiny models anew.")
@click.option("--only", type=click.Choice(list(CONFIGS)), help="Of the models this one.")
def main(new_models: bool, only: str | None) -> None:
    """Write every vector below tests/conformance."""
    for folder in ("good", "bad"):
        (ROOT / folder).mkdir(parents=True, exist_ok=True)
        for old in (ROOT / folder).iterdir():
            old.unlink()
    if new_models:
        mint_models(only)
    every = ModelSet.from_paths([ROOT / f"model-{name}.safetensors" for name in CONFIGS])
    (guided,) = (model for model in every if model.guides)
    models = every.without([guided.digest])
    broken = ModelSet.from_paths([ROOT / "model-gray-tables.safetensors"])
    adapters = {}
    for model, seed in zip(models, (3, 4), strict=True):
        name = model.name.removeprefix("tiny-")
        adapters[name] = random_adapter(model, AdapterShape(2, 3, 1), 12, seed)
        (ROOT / f"adapter-{name}.bin").write_bytes(adapters[name].payload)
    good = good_codestreams(models, list(adapters.values())) | guided_codestreams(guided)
    if not _has_its_feature(good):
        raise click.ClickException("a vector lacks the feature that its name promises")
    for name, (raw, image) in good.items():
        (ROOT / "good" / f"{name}.codestream").write_bytes(raw)
        np.save(ROOT / "good" / f"{name}.npy", image)
    first = next(iter(broken))
    bad = bad_codestreams(
        {n: r for n, (r, _) in good.items()}, models, adapters, bytes.fromhex(first.digest)[:8]
    )
    everything = ModelSet([*every, first])
    for name, raw in bad.items():
        (ROOT / "bad" / f"{name}.codestream").write_bytes(raw)
        try:
            decode_image(raw, models=everything, adapters=adapters)
        except CallicError as error:
            if error.code != name[:4]:
                raise click.ClickException(f"{name} is refused with {error.code}: {error}") from error
        else:
            raise click.ClickException(f"{name} decodes")
    click.echo(f"{len(good)} good and {len(bad)} bad vectors")


if __name__ == "__main__":
    main()
