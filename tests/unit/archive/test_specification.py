"""Archives carry the specification, and of it the pages that say something of what they hold."""

from __future__ import annotations

import bz2
from pathlib import Path

from callic_archive.archive.specification import specification_packed
from tests.trees import pack_tree, smooth, write_pnm

PAGES = Path(__file__).parents[3] / "docs/format"


def test_the_specification_of_archives_with_models_is_whole() -> None:
    headings = {page.name: page.read_text("utf-8").splitlines()[0] for page in PAGES.glob("*.md")}
    whole = bz2.decompress(specification_packed()).decode().splitlines()
    assert {name for name, line in headings.items() if line not in whole} == {"opening.md"}


def test_pages_of_the_specification_come_where_they_are_needed(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "note").write_text("no image")
    always = {"# The archive", "# Image files", "# Deflate streams by differences", "# Error codes"}
    codestreams = {"# The codestream", "# Entropy coding", "# The model"}

    def headings() -> set[str]:
        archive = tmp_path / f"{len(list(tmp_path.iterdir()))}.callic"
        pack_tree(tree, archive)
        text = bz2.decompress((archive / "data/specification.md.bz2").read_bytes()).decode()
        pages = {page.read_text("utf-8").splitlines()[0] for page in PAGES.glob("*.md")}
        assert pages >= always | codestreams | {"# Zarr"}
        return pages & set(text.splitlines())

    basis = headings()
    assert basis >= always
    assert not basis & (codestreams | {"# Zarr"})
    write_pnm(tree / "a.pgm", smooth(90, 90))
    assert headings() == basis | codestreams
    (tree / "a.pgm").unlink()
    (tree / "zarr.json").write_text("{}")
    assert headings() == basis | codestreams | {"# Zarr"}
