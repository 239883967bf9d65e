"""What every archive tells of itself: a first page, and those sections of the specification that say something of it.

The pages of docs/format say it of each section: below a heading, a comment ``<!-- for: lzw png -->`` names what an archive
must have of, one of them at least, to need the section. Before a paragraph it says so of that alone. Of what has no comment
each archive has need.
"""

from __future__ import annotations

import bz2
import json
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from callic_archive import __version__
from callic_archive.archive.entries import Entry
from callic_archive.archive.header import FORMAT_VERSION
from callic_archive.images.zarr_metadata import DOCUMENTS

SPECIFICATION = "specification.md.bz2"
#: Bytes of content from which an archive carries the roomy sections too: there they are a thousandth of it.
ROOMY = 4 << 20
#: What sections can be for. ``writing``: what packers do and readers need not know, which no archive carries. ``roomy``: what
#: tells nothing that reading a sound archive takes, such as proofs, examples and what salvage reads, which small ones do without.
FORMATS = frozenset({
    *("bmp", "dicom", "gzip", "hdf5", "jls", "jp2", "ljpeg", "metaimage", "mgh", "nifti", "npy", "nrrd", "png", "pnm", "raw"),
    *("tar", "tiff", "zarr", "zip"),
})  # fmt: skip
TOPICS = frozenset({
    *("adapters", "bases", "bits", "content", "conventional", "dct", "differences", "frames", "holes", "image", "jpeg", "jpegs"),
    *("jpegxl", "learned", "libdeflate", "narrowed", "samples", "webp", "zstd"), *FORMATS,
    *("links", "lzw", "members", "names", "packings", "pieces", "planes", "png", "reasons", "roomy", "segments", "several"),
    *("torchac", "wide", "writing", "zarr"),
})  # fmt: skip
EVERYTHING = TOPICS - {"writing"}
#: What stands for a topic in the text of a recipe; rather too often than not.
_IN_RECIPES = {
    "bits": '"bits"',
    "differences": '"differences"',
    "frames": '"codes"',
    "libdeflate": r'\["libdeflate"',
    "lzw": '"(lzw|packbits|rle)"',
    "members": '"members"',
    "packings": '"packings"',
    "zstd": r'\["zstd"',
}
#: The forms that recipes of these formats can have: those of pieces lie in their parts.
_OF_PIECES = {
    "tiff": {"packings", "lzw", "differences", "bits", "libdeflate", "zstd"},
    "zarr": {"differences"},
    "hdf5": {"differences"},
    "zip": {"members", "differences", "bits"},
    "pnm": {"bits"},
    "dicom": {"bits"},
}
_CONVENTIONAL = frozenset({"jpegxl", "webp", "samples", "segments", "wide", "dct", "jpeg"})
_HEADING = re.compile(r"^(#+) (.*)\n(?:<!-- for: ([a-z0-9 ]+) -->\n)?", re.MULTILINE)
_ROW = re.compile(r"^(\|.*)<!-- for: ([a-z0-9 ]+) -->(.*\n)", re.MULTILINE)
_PARAGRAPH = re.compile(r"^<!-- for: ([a-z0-9 ]+) -->\n((?:.+\n)+\n?)", re.MULTILINE)


def opening_text() -> str:
    """The page that tells whoever finds an archive what it is and where the rest is told."""
    page = next(text for name, text in _format_pages() if name == "opening.md")
    return page.replace("VERSION_OF_SOFTWARE", __version__).replace("VERSION_OF_FORMAT", str(FORMAT_VERSION))


def topics_of(entries: Iterable[Entry], content: int = 0) -> frozenset[str]:
    """What an archive of these entries has, as sections of the specification ask for it. ``content``: bytes of its shards."""
    found: set[str] = {"roomy"} if content >= ROOMY else set()
    for entry in entries:
        found |= _topics_of(entry, found)
    if "roomy" not in found:
        found.discard("reasons")  # the codes are words
    return frozenset(found)


def _topics_of(entry: Entry, known: Collection[str]) -> set[str]:
    found: set[str] = set()
    if entry.reason is not None:
        found.add("reasons")
    if entry.link is not None:
        found.add("links")
    if entry.extents is not None:
        found.add("holes")
    if not all(_is_utf8(name) for name in (entry.path, entry.link, entry.target) if name is not None):
        found.add("names")
    if entry.path.rsplit("/", 1)[-1] in DOCUMENTS:
        # Chunks of the codec ``callic`` hold codestreams, and are kept as they are.
        found |= {"zarr", "learned", "image", "several", "adapters", "torchac"}
    for part in entry.parts:
        found |= {part.coding} & TOPICS
        found |= {"conventional"} if part.coding in _CONVENTIONAL else set()
        found |= {"bases"} if part.base is not None else set()
        if part.stream is not None and part.stream.coder == "segments":  # those of high parts too
            found.add("segments")
        if part.coding == "wide":  # may hold any
            found |= {"jpegxl", "samples", "webp"}
        if part.stream is not None and part.stream.coder.startswith("dct "):  # what differs
            found |= set(part.stream.coder.split()) & TOPICS
        if "segments" in found:  # their tables
            found.add("samples")
        if part.stream is not None and part.learned:
            found.add("learned")
            found |= {"torchac"} if part.stream.coder == "torchac" else set()
            found |= {"adapters"} if part.stream.adapters or part.stream.adapter_bytes else set()
            found |= {"planes", "several"} if part.stream.plane else set()
            found |= {"several"} if len(part.stream.shape) > 2 else set()
        if part.stream is not None and part.stream.coded_dtype:
            found |= {"conventional", "narrowed"}
    if not entry.is_image:
        return found
    found |= {"image", *({str(entry.format)} & TOPICS), *({"content"} if entry.fidelity == "content" else ())}
    if entry.method == "pieces":
        return found | {"pieces", *_OF_PIECES.get(str(entry.format), ())}
    asked = {topic: sign for topic, sign in _IN_RECIPES.items() if topic not in known}
    recipe = json.dumps(entry.recipe) if asked else ""
    found |= {topic for topic, sign in asked.items() if re.search(sign, recipe)}
    if "members" in found:
        found |= {member for member in FORMATS if f'"{member}"' in recipe}
    return found


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def specification_packed(topics: Collection[str] = EVERYTHING) -> bytes:
    """What of the specification an archive carries that has these topics, compressed: a twentieth of an archive of one
    megabyte, were it all. bzip2 makes it a seventh smaller than gzip, and is as old and as widely read."""
    return bz2.compress(format_text(topics).encode(), 9)


def format_text(topics: Collection[str] = EVERYTHING) -> str:
    """The specification that an archive of these topics carries: the pages of docs/format, one after the other, but for
    sections that say nothing of it."""
    pages = [page for page in _format_pages() if page[0] != "opening.md"]
    order = {
        "index.md": 0,
        "archive.md": 1,
        "images.md": 2,
        "deflate.md": 3,
        "zarr.md": 4,
        "container.md": 5,
        "codestream.md": 6,
        "errors.md": 9,
    }
    pages.sort(key=lambda page: (order.get(page[0], 6), page[0]))
    texts, spared = [], []
    for name, text in pages:
        sections = list(_sections(text))
        kept = [section for section in sections if section.needed(topics)]
        if left := [section.title for section in sections if section.spared_itself(topics)]:
            spared.append(f"{name}: {', '.join(_in_few_words(left))}")
        texts.append("".join(section.told(topics) for section in kept).strip())
    head = (
        "# The format of this archive\n\n"
        f"Written by callic-archive {__version__}, format version {FORMAT_VERSION}. Codes such as E502 are names of failures "
        "in that program.\n"
    )
    if spared:
        small = "" if "roomy" in topics else ", and what a small archive can be read without"
        head += f"\nLeft out is what says nothing of this archive{small}: {'; '.join(spared)}.\n"
    return "\n\n".join([head, *filter(None, texts)]) + "\n"


def _in_few_words(titles: Iterable[str]) -> list[str]:
    """Of sections that have numbers these alone, as other sections name them by these; "5 to 7" where they follow each other."""
    words: list[str] = []
    last = first = None
    for title in titles:
        number = int(found[1]) if (found := re.match(r"(\d+)\. ", title)) else None
        if number is not None and last is not None and number == last + 1:
            words[-1] = f"{first} to {number}"
        else:
            words.append(title if number is None else str(number))
            first = number
        last = number
    return words


@dataclass(frozen=True)
class _Section:
    """A heading and what follows up to the next. ``asked``: topics of the section and of those around it, outermost
    first; ``text`` without the comment below the heading, but with those before paragraphs and in rows of tables."""

    title: str
    text: str
    asked: tuple[frozenset[str], ...]

    def told(self, topics: Collection[str]) -> str:
        """The text without paragraphs and rows that nothing asks for."""

        def paragraph(found: re.Match[str]) -> str:
            return found[2] if set(found[1].split()) & set(topics) else ""

        def row(found: re.Match[str]) -> str:
            return found[1] + found[3] if set(found[2].split()) & set(topics) else ""

        return _ROW.sub(row, _PARAGRAPH.sub(paragraph, self.text))

    def needed(self, topics: Collection[str]) -> bool:
        return all(not some or some & set(topics) for some in self.asked)

    def spared_itself(self, topics: Collection[str]) -> bool:
        """Whether it is left out for its own sake, and not with the section around it."""
        around = _Section("", "", self.asked[:-1])
        return around.needed(topics) and not self.needed(topics)


def _sections(page: str) -> Iterator[_Section]:
    """The sections of a page, in order. Headings inside code blocks are indented, so none is taken for one."""
    headings = list(_HEADING.finditer(page))
    around: list[tuple[int, frozenset[str]]] = []
    for heading, after in zip(headings, [*headings[1:], None], strict=True):
        level = len(heading[1])
        around = [outer for outer in around if outer[0] < level]
        around.append((level, frozenset((heading[3] or "").split())))
        text = page[heading.end() : after.start() if after else len(page)]
        yield _Section(heading[2], f"{heading[1]} {heading[2]}\n{text}", tuple(asked for _, asked in around))


def _format_pages() -> list[tuple[str, str]]:
    packaged = resources.files("callic_archive").joinpath("specification")
    if packaged.is_dir():
        return [(p.name, p.read_text("utf-8")) for p in packaged.iterdir() if p.name.endswith(".md")]
    source = Path(__file__).parents[2] / "docs" / "format"  # a checkout
    return [(p.name, p.read_text("utf-8")) for p in source.glob("*.md")]
