"""Crops of collections: what the encoder would code, held-out files apart, memory bounded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from callic_archive.archive.scan import Source, scan
from callic_archive.codec.planning import check_image, plan_group
from callic_archive.errors import NothingToTrain
from callic_archive.images.planes import choose_packing
from callic_archive.model.weights import IntegerModel, ModelSet
from callic_archive.training.collection import CollectionCrops, in_fixed_order, take_parts, windows_of
from tests.trees import smooth, write_pnm
from tests.unit.model.builders import tiny_models

WHOLE = (0.0, 1.0)


def model(channels: int) -> IntegerModel:
    return next(m for m in tiny_models() if m.channels == channels)


def sources(root: Path) -> list[Source]:
    return scan([str(root)]).sources


def never() -> bool:
    return False


def silent(done: int, total: int) -> None:
    assert 0 < done <= total


def test_about_an_eighth_is_held_out_whatever_the_order(tmp_path: Path) -> None:
    for number in range(24):
        write_pnm(tmp_path / "t" / f"{number}.pgm", smooth(20, 20))
    found = sources(tmp_path / "t")
    assert in_fixed_order(found) == in_fixed_order(found[::-1])
    parts = take_parts(model(1), found, 1, silent, never)
    assert (parts.files, parts.held_files, parts.within) == (21, 3, False)
    assert parts.train.files == in_fixed_order(found)[3:]
    assert sum(x.shape[0] for x, _ in parts.held.values()) == 3


def test_held_out_files_without_images_are_made_up_for(tmp_path: Path) -> None:
    for number in range(10):
        write_pnm(tmp_path / "t" / f"{number}.pgm", smooth(20, 20))
    order = in_fixed_order(sources(tmp_path / "t"))
    for source in order[:5]:
        Path(source.file).write_text("words")
    parts = take_parts(model(1), sources(tmp_path / "t"), 1, silent, never)
    assert (parts.files, parts.held_files, parts.within) == (2, 8, False)
    assert sum(x.shape[0] for x, _ in parts.held.values()) == 3


def test_windows_are_what_the_encoder_would_code() -> None:
    rng = np.random.default_rng(0)
    image = (rng.integers(0, 40, (70, 90)) * 25 + 1000).astype(np.uint16)  # gaps: packed to ranks
    models = ModelSet([model(1)])
    (window,) = windows_of(image, models, 4, rng)
    planes = check_image(image)
    packing = choose_packing(planes[:, :, 0])
    plan = plan_group(planes, [0], [packing], models)
    assert packing.values is not None
    assert np.array_equal(window.planes, plan.levels(planes, (0, 0, 70, 90)))
    assert window.stats == (plan.plane.shift, plan.plane.depth, plan.plane.mid, packing.high, 0)


@pytest.mark.parametrize(("channels", "for_gray", "for_rgb"), [(1, 1, 0), (2, 2, 0), (3, 0, 1), (4, 1, 1)])
def test_each_model_gets_the_planes_it_would_code(channels: int, for_gray: int, for_rgb: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 40, channels)).astype(np.uint8)
    for count, wanted in ((1, for_gray), (3, for_rgb)):
        found = list(windows_of(image, ModelSet([model(count)]), 9, np.random.default_rng(1)))
        assert len(found) == wanted
        assert all(w.planes.shape == (count, 40, 40) for w in found)


def test_flat_and_tiny_images_give_nothing() -> None:
    for image in (np.zeros((64, 64), np.uint8), smooth(8, 400)):
        assert not list(windows_of(image, ModelSet([model(1)]), 9, np.random.default_rng(1)))


def test_a_large_collection_takes_bounded_memory_and_is_seen_wholly(tmp_path: Path) -> None:
    for number in range(12):
        write_pnm(tmp_path / "t" / f"{number:02}.pgm", (smooth(64, 64) // 16 + 10 * number).astype(np.uint8))
    files = tuple(s for s in sources(tmp_path / "t") if s.kind == "file")
    budget = 3 * 64 * 64 * 2
    crops = CollectionCrops(model(1), files, WHOLE, 0, pool_bytes=budget)
    crops.fill(silent, never)
    seen: set[int] = set()
    for _ in range(400):
        x, stats = crops.batch(4, 32)
        assert x.shape == (4, 1, 32, 32)
        assert stats.shift.shape == (4,)
        assert crops._bytes <= budget
        assert crops._bytes == sum(w.planes.nbytes for w in crops._windows)
        seen |= {int(value) // 10 for value in x.amin(dim=(1, 2, 3)).tolist()}
    assert len(seen) >= 11
    small = CollectionCrops(model(1), files[:3], WHOLE, 0)
    small.fill(silent, never)
    assert small._whole
    assert small.megapixels == pytest.approx(3 * 64 * 64 / 1e6)


def test_the_same_seed_gives_the_same_crops(tmp_path: Path) -> None:
    for number in range(3):
        write_pnm(tmp_path / "t" / f"{number}.pgm", smooth(50, 60, 1, number))
    files = tuple(s for s in sources(tmp_path / "t") if s.kind == "file")
    batches = []
    for seed in (1, 1, 2):
        crops = CollectionCrops(model(1), files, WHOLE, seed)
        crops.fill(silent, never)
        batches.append(crops.batch(3, 24)[0])
    assert bool((batches[0] == batches[1]).all())
    assert not bool((batches[0] == batches[2]).all())


def test_one_file_alone_is_split_by_its_rows(tmp_path: Path) -> None:
    parts_of_rows = [smooth(140, 40) % 50, smooth(20, 40) % 50 + 200]  # packed to ranks 0..99
    image = np.concatenate(parts_of_rows).astype(np.uint8)
    write_pnm(tmp_path / "t" / "one.pgm", image)
    (tmp_path / "t" / "words.txt").write_text("words")
    parts = take_parts(model(1), sources(tmp_path / "t"), 1, silent, never)
    assert parts.within
    assert not parts.train.empty
    assert all(w.planes.max() < 50 for w in parts.train._windows)
    assert list(parts.held) == ["20x40"]
    assert all(float(x.min()) >= 50 for x, _ in parts.held.values())


def test_no_image_for_the_model_is_an_error(tmp_path: Path) -> None:
    write_pnm(tmp_path / "t" / "c.ppm", smooth(40, 40, 3))
    (tmp_path / "t" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
    files = tuple(s for s in sources(tmp_path / "t") if s.kind == "file")
    with pytest.raises(NothingToTrain, match="tiny-gray"):
        take_parts(model(1), files, 0, silent, never)
