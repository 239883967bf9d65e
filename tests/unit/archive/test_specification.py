"""Archives carry the specification, and of it the sections that say something of what they hold."""

from __future__ import annotations

import bz2
import re
from pathlib import Path

import pytest

from callic_archive.archive.codecs import StreamInfo
from callic_archive.archive.entries import Entry
from callic_archive.archive.parts import Part
from callic_archive.archive.specification import (
    EVERYTHING,
    FORMATS,
    ROOMY,
    TOPICS,
    format_text,
    specification_packed,
    topics_of,
)
from callic_archive.container.layout import RecordRef, RecordType
from tests.trees import pack_tree, smooth, write_pnm

PAGES = {page.name: page.read_text("utf-8") for page in (Path(__file__).parents[3] / "docs/format").glob("*.md")}
NEVER = ("## 5. Range encoder", "### How the packer cuts", "## 10. What the packer takes, and how it sees it")


def headings(text: str) -> list[str]:
    return re.findall(r"^#+ .*", text, re.MULTILINE)


def left_out(text: str) -> set[str]:
    """The headings of all sections that a specification says it was left without."""
    told = re.search(r"^Left out is .*?: (.*)\.$", text, re.MULTILINE)
    assert told is not None
    found = set()
    for part in told[1].split("; "):
        name, names = part.split(": ", 1)
        spans = re.findall(r"(\d+)(?: to (\d+))?(?:,|$)", names)
        numbers = {number for first, last in spans for number in range(int(first), int(last or first) + 1)}
        for line in headings(PAGES[name]):
            title = line.lstrip("# ")
            number = re.match(r"(\d+)\. ", title)
            if (number and int(number[1]) in numbers) or title in names:
                found.add(line)
    return found


def test_all_that_readers_may_need_is_in_the_whole_specification() -> None:
    text = bz2.decompress(specification_packed()).decode()
    missing = {line for name, page in PAGES.items() if name != "opening.md" for line in headings(page)} - set(headings(text))
    assert missing == {
        *NEVER,
        "### How the packer chooses",
        "### How the packer finds and joins them",
        *re.findall(r"^## .*(?=\n<!-- for: writing -->)", PAGES["errors.md"], re.MULTILINE),
    }
    assert "<!--" not in text
    left = left_out(text)
    assert all(line in left for line in missing)  # named as left out


def test_a_section_comes_with_every_word_of_it() -> None:
    text = format_text(TOPICS)
    for name, page in PAGES.items():
        if name != "opening.md":
            assert re.sub(r"<!-- for: [a-z0-9 ]+ -->\n?", "", page).strip() in text, name


def test_a_paragraph_comes_where_something_asks_for_it() -> None:
    without, with_names = format_text({"image", "roomy"}), format_text({"image", "roomy", "names"})
    paragraph = re.search(r"<!-- for: names -->\n((?:.+\n)+)", PAGES["container.md"])
    assert paragraph is not None
    assert paragraph[1] not in without
    assert with_names.replace(paragraph[1] + "\n", "") == without  # nothing else comes or goes


def test_pages_ask_for_topics_that_there_are() -> None:
    asked = {
        topic
        for page in PAGES.values()
        for some in re.findall(r"<!-- for: (.*) -->", page)
        for topic in some.split()
    }
    assert asked == TOPICS
    assert EVERYTHING < TOPICS


@pytest.mark.parametrize(
    ("topics", "there", "not_there"),
    [
        ((), "# The container", "# Image files"),
        (("image",), "## 4. Splicing", "## 5. Packed blocks"),
        (("image", "packings"), "## 5. Packed blocks", "## 6. LZW and PackBits"),
        (("learned",), "# The model", "## 7. Adapters"),
        (("adapters",), "# The archive", "## 6. Adapter weights"),  # a section is nothing without its page
        (("learned", "adapters"), "## 6. Adapter weights", "## 7. torchac"),
        (("reasons",), "## Reasons", "## Environment"),
        (("learned",), "## 4. Range decoder", "## 8. What a decoder MUST reject"),
        (("learned", "roomy"), "## 8. What a decoder MUST reject", "## 7. Adapters"),
    ],
)
def test_sections_come_for_a_topic(topics: tuple[str, ...], there: str, not_there: str) -> None:
    found = headings(format_text(topics))
    assert there in found
    assert not_there not in found


def entry(format: str = "tiff", method: str = "image", **fields: object) -> Entry:
    return Entry("a", "file", 0o644, 0, 10, sha256="0" * 64, method=method, format=format, **fields)  # type: ignore[arg-type]


def image_part(coding: str, coder: str = "range", **fields: object) -> Part:
    stream = StreamInfo(**{"shape": (4, 4), "dtype": "uint16", "coder": coder, "models": (), "adapters": (), **fields})  # type: ignore[arg-type]
    return Part(RecordRef("shard-00000.cla", 0, 9, RecordType.CODESTREAM, 0), coding, 32, stream)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("row", "topics"),
    [
        (Entry("a", "directory", 0o755, 0), set()),
        (Entry("a", "file", 0o644, 0, 3, method="stored", reason="coding"), set()),
        (entry("npy", recipe={"layouts": []}), {"image"}),
        (entry(fidelity="content", recipe={"packings": [["lzw", 1]]}), {"image", "content", "packings", "lzw"}),
        (entry(recipe={"packings": [], "encoders": [["differences", 1, 0]]}), {"image", "packings", "differences"}),
        (entry("png", recipe={"deflate": {"differences": 9}}), {"image", "png", "differences"}),
        (entry("zip", recipe={"members": [{"format": "png"}]}), {"image", "members", "png"}),
        (entry("dicom", recipe={"encoders": [["rle", "libtiff"]], "codes": []}), {"image", "frames", "lzw"}),
        (entry(method="pieces"), {"image", "pieces", "packings", "lzw", "differences", "bits", "libdeflate", "zstd"}),
        (entry("pnm", recipe={"layouts": [{"bits": 1}]}), {"image", "bits"}),
        (Entry("a", "symlink", 0o777, 0, target="b\udcff"), {"names"}),
        (Entry("a", "file", 0o644, 0, 3, method="stored", link="b"), {"links"}),
        (Entry("a", "file", 0o644, 0, 3, method="sparse", extents=((0, 3),)), {"holes"}),
        (entry("npy", parts=(image_part("codestream", shape=(4, 4, 3)),)), {"image", "learned", "several"}),
        (entry("npy", parts=(image_part("codestream", plane=(1, 3)),)), {"image", "learned", "several", "planes"}),
        (entry("npy", parts=(image_part("codestream"),)), {"image", "learned"}),
        (entry("npy", parts=(image_part("codestream", "torchac"),)), {"image", "learned", "torchac"}),
        (entry("npy", parts=(image_part("codestream", adapters=("0" * 64,)),)), {"image", "learned", "adapters"}),
        (entry("npy", parts=(image_part("codestream", adapter_bytes=9),)), {"image", "learned", "adapters"}),
        (entry("npy", parts=(image_part("codestream", coded_dtype="uint8"),)), {"image", "learned", "conventional", "narrowed"}),
        (entry("npy", parts=(image_part("jpegxl", "libjxl 0.11.2"),)), {"image", "conventional", "jpegxl"}),
        (entry("npy", parts=(image_part("segments", "segments"),)), {"image", "conventional", "segments", "samples"}),
        (entry("npy", parts=(image_part("dct", "dct"),)), {"image", "conventional", "dct"}),
        (entry("npy", parts=(image_part("dct", "dct segments"),)), {"image", "conventional", "dct", "segments", "samples"}),
        (entry("npy", parts=(image_part("wide"),)), {"image", "conventional", "wide", "learned", "jpegxl", "samples", "webp"}),
        (
            entry("npy", parts=(image_part("wide", "segments"),)),
            {"image", "conventional", "wide", "segments", "jpegxl", "samples", "webp"},
        ),
    ],
)
def test_an_entry_says_what_it_needs(row: Entry, topics: set[str]) -> None:
    topics |= {row.format} & FORMATS
    assert topics_of([row]) == topics
    assert topics_of([row, row]) == topics


def test_small_archives_do_without_the_words_for_reasons() -> None:
    row = Entry("a", "file", 0o644, 0, 3, method="stored", reason="coding")
    assert topics_of([row], 1 << 30) == {"reasons", "roomy"}
    assert topics_of([row]) == set()


def test_small_archives_do_without_proofs_and_examples() -> None:
    """They tell so, and a large one tells all."""
    assert topics_of([], ROOMY) == {"roomy"}
    assert topics_of([], ROOMY - 1) == set()
    small, large = format_text({"image", "learned"}), format_text({"image", "learned", "roomy"})
    only = set(headings(large)) - set(headings(small))
    assert "## An example" in only
    assert "can be read without: " in small
    assert only - {"### Nothing overflows"} <= left_out(small)  # one of them goes with the section around it
    assert "can be read without" not in large
    assert len(specification_packed({"image", "learned"})) < 0.7 * len(specification_packed({"image", "learned", "roomy"}))


def test_archives_carry_what_they_need(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "note").write_text("no image")

    def found() -> set[str]:
        archive = tmp_path / f"{len(list(tmp_path.iterdir()))}.callic"
        pack_tree(tree, archive)
        return set(headings(bz2.decompress((archive / "data/specification.md.bz2").read_bytes()).decode()))

    pages = {page: headings(text)[0] for page, text in PAGES.items()}
    always = {pages["archive.md"], pages["container.md"]}
    codestreams = {pages["codestream.md"], pages["entropy.md"], pages["model.md"]}
    basis = found()
    assert basis >= always
    assert not basis & {*codestreams, pages["images.md"], pages["zarr.md"], pages["errors.md"], *NEVER}
    write_pnm(tree / "a.pgm", smooth(90, 90))
    assert found() >= always | codestreams | {pages["images.md"]}
    (tree / "a.pgm").unlink()
    (tree / "zarr.json").write_text("{}")
    assert found() >= always | codestreams | {pages["zarr.md"], pages["images.md"]}
