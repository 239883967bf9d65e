"""Every vector: package == expected pixels == independent decoder; broken ones are refused with their code.

A missing file fails: nothing here makes one (``python -m pipelines.mint_conformance`` does, by hand).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from callic_archive.codec.adapter_syntax import read_adapter
from callic_archive.codec.codestream import parse, serialise
from callic_archive.codec.decoder import decode_image
from callic_archive.codec.engine import Backend
from callic_archive.errors import CallicError
from callic_archive.model.adapter import Adapter
from callic_archive.model.weights import ModelSet
from tests.conformance import independent_decoder, independent_model

ROOT = Path(__file__).parent
SPECIFICATION = ROOT.parents[1] / "docs/format"
MODELS = ("model-gray", "model-gray-tables", "model-rgb", "model-guided")
ADAPTERS = ("adapter-gray", "adapter-rgb")
#: The other backend is slow on such small steps; these cover its every part.
WITH_TORCH = ("adapter_rgb", "bands_signed", "gray16_extremes", "gray8", "guided", "guided_predicted", "rgb16", "tiles_patches")
GOOD = (
    "adapter_inside", "adapter_named", "adapter_on_named", "adapter_rgb", "bands", "bands_signed", "channel_copies",
    "constant_image", "constant_plane",
    "four_channels", "gray16", "gray16_extremes", "gray8", "gray8_1x1", "gray8_1xN", "gray8_Nx1",
    "gray8_one_channel", "guided", "guided_predicted",
    "infrared", "int16", "patches", "rgb16", "rgb8", "tiles", "tiles_patches", "torchac",
    "torchac_tiles", "two_channels", "value_map",
)  # fmt: skip
BAD = (
    "E200_guide_for_a_model_without", "E200_model_of_other_planes", "E220_guided_by_itself", "E220_guided_jointly",
    "E211_stream_cut", "E212_stream_goes_on",
    "E212_stream_of_nothing_to_code", "E213_stream_beyond_all_intervals", "E214_mixture_tables",
    "E215_torchac_too_many_levels", "E220_adapter_kind", "E220_adapter_of_no_bytes",
    "E220_adapter_of_no_bytes_on_another",
    "E220_channels_that_are_not_there", "E220_coder", "E220_constant_of_two_levels",
    "E220_copy_of_a_copy", "E220_copy_of_later_channel", "E220_depth_17", "E220_depth_7", "E220_empty",
    "E220_group_kind", "E220_header_bit", "E220_header_crc", "E220_level_below_zero",
    "E220_levels_beyond_depth", "E220_magic", "E220_map_above_type", "E220_map_bomb", "E220_map_goes_on",
    "E220_map_not_deflate", "E220_map_too_long", "E220_map_too_short", "E220_no_patch", "E220_no_rows",
    "E220_no_tile", "E220_number_not_shortest", "E220_number_too_long", "E220_packing_kind",
    "E220_predicted_from_a_plane_that_is_not_there", "E220_predicted_from_four",
    "E220_predicted_from_itself", "E220_predicted_from_none", "E220_predicted_jointly",
    "E220_range_above_type", "E220_range_below_type", "E220_offset_too_large", "E220_predicted_level_beyond_its_range",
    "E220_sample_type",
    "E220_shift_16", "E220_tile_above_4096", "E220_tile_crc", "E220_too_few_bytes_for_tiles",
    "E220_too_many_pixels", "E220_trailing_bytes", "E220_truncated_header", "E220_truncated_stream",
    "E220_weight_too_large", "E221_version", "E222_other_stream", "E222_pixel_digest",
    "E301_unknown_adapter", "E301_unknown_adapter_under", "E301_unknown_model", "E302_adapter_crc", "E302_adapter_goes_on",
    "E302_adapter_header_cut", "E302_adapter_magic", "E302_adapter_rank", "E302_adapter_scale",
    "E302_adapter_short", "E302_adapter_stream", "E302_adapter_version", "E303_adapter_breaks_bound",
    "E304_adapter_of_other_model", "E304_adapter_under_of_other_model",
)  # fmt: skip


@lru_cache(maxsize=1)
def models() -> ModelSet:
    return ModelSet.from_paths([ROOT / f"{name}.safetensors" for name in MODELS])


@lru_cache(maxsize=1)
def adapters() -> dict[str, Adapter]:
    return {name: read_adapter((ROOT / f"{name}.bin").read_bytes(), models()) for name in ADAPTERS}


@lru_cache(maxsize=1)
def independent() -> tuple[dict[str, independent_model.Model], list[bytes]]:
    read = [independent_model.read_model((ROOT / f"{name}.safetensors").read_bytes()) for name in MODELS]
    return {m.digest: m for m in read}, [(ROOT / f"{name}.bin").read_bytes() for name in ADAPTERS]


def vector(folder: str, name: str) -> bytes:
    return (ROOT / folder / f"{name}.codestream").read_bytes()


def assert_equal(found: NDArray[Any], expected: NDArray[Any]) -> None:
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert np.array_equal(found, expected)


def test_nothing_lies_here_that_no_test_reads() -> None:
    assert sorted(p.name for p in (ROOT / "bad").iterdir()) == sorted(f"{n}.codestream" for n in BAD)
    expected = [f"{n}{suffix}" for n in GOOD for suffix in (".codestream", ".npy")]
    assert sorted(p.name for p in (ROOT / "good").iterdir()) == sorted(expected)


@pytest.fixture
def _one_torch_thread() -> Iterator[None]:
    """On small tensors torch's threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_one_torch_thread")
@pytest.mark.parametrize(
    ("name", "backend"), [*((n, "numpy") for n in GOOD), *((n, "torch") for n in WITH_TORCH)]
)
def test_the_package_decodes_every_good_vector(name: str, backend: Backend) -> None:
    image = decode_image(
        vector("good", name), models=models(), adapters=adapters(), backend=backend, threads=2
    )
    assert_equal(image, np.load(ROOT / "good" / f"{name}.npy"))


@pytest.mark.parametrize("name", GOOD)
def test_the_independent_decoder_agrees(name: str) -> None:
    assert_equal(
        independent_decoder.decode(vector("good", name), *independent()),
        np.load(ROOT / "good" / f"{name}.npy"),
    )


@pytest.mark.parametrize("name", GOOD)
def test_a_good_vector_is_what_the_writer_writes(name: str) -> None:
    raw = vector("good", name)
    assert serialise(parse(raw)) == raw


@pytest.mark.parametrize("name", BAD)
def test_every_bad_vector_is_refused_with_its_code(name: str) -> None:
    raw = vector("bad", name)
    with pytest.raises(CallicError) as refused:
        decode_image(raw, models=models(), adapters=adapters())
    assert refused.value.code == name[:4]
    assert len(str(refused.value)) > 20, "a sentence for the user"
    with pytest.raises(independent_decoder.Reject) as rejected:
        independent_decoder.decode(raw, *independent())
    assert rejected.value.code == name[:4]


def test_the_independent_decoder_knows_nothing_of_the_package() -> None:
    for path in sorted(ROOT.glob("independent_*.py")):
        modules = [
            module
            for node in ast.walk(ast.parse(path.read_text("utf-8")))
            for module in (
                [alias.name for alias in node.names] if isinstance(node, ast.Import)
                else [node.module or ""] if isinstance(node, ast.ImportFrom)
                else []
            )
        ]  # fmt: skip
        assert not [m for m in modules if m.startswith(("callic", "numba", "torch", "tests.unit"))]


def test_the_example_in_the_specification_is_a_vector() -> None:
    text = (SPECIFICATION / "codestream.md").read_text("utf-8").split("## 8. An example")[1]
    lines = [line[4:].split("   ")[0] for line in text.splitlines() if line.startswith("    ")]
    assert bytes.fromhex("".join(lines)) == vector("good", "gray8_1xN")


def test_every_code_of_a_bad_vector_is_specified() -> None:
    pages = [(SPECIFICATION / f"{page}.md").read_text("utf-8") for page in ("codestream", "model", "entropy")]
    specified = set(re.findall(r"\bE2\d\d|\bE3\d\d", "\n".join(pages)))
    assert {name[:4] for name in BAD} <= specified
    # E210 and E216 are no property of a codestream: arguments of the coder, and torchac missing on a machine.
    assert specified - {name[:4] for name in BAD} <= {"E210", "E216"}
