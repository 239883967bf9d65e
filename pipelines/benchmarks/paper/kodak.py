"""Table 1: bits per sample on Kodak. Measured rows come from the records of ``sizes`` and of the conventional
codecs, which are extended here; the rest is quoted."""

from __future__ import annotations

from typing import Any

from pipelines.benchmarks import conventional
from pipelines.benchmarks.paper import quoted
from pipelines.benchmarks.record import Grid, load, model_digests, percent

WHOLE = "default"  # as ``pack`` comes: its row counts the models too, which were fitted to these images
SETTINGS = ("none", "collection", "image", WHOLE)
OWN = {
    "none": "this project, base model (--adapt none)",
    "collection": "this project, --adapt collection",
    "image": "this project, --adapt image",
    WHOLE: "this project, as `pack` comes: a small model fitted to these images, counted with the whole directory",
}
SMALL_PARAMETERS = "146K"
CONVENTIONAL = {
    "jxl9": "JPEG XL effort 9",
    "jpeg2000": "JPEG 2000",
    "webp": "WebP",
    "png9": "PNG level 9",
    "jpegls": "JPEG-LS",
}


def update(limit: int | None = None, *, again: bool = False, workers: int | None = None) -> None:
    """Measure what is not recorded: whole Kodak archives by setting, conventional codecs. ``limit``: only the
    first images, hardly adapted, recorded under a label of their own."""
    from pipelines.benchmarks import sizes
    from pipelines.benchmarks.eval_sets import files

    label = "kodak" if limit is None else f"kodak (first {limit})"
    conventional.update({label: files("kodak", limit)})
    steps = None if limit is None else 2
    sizes.update(
        ["kodak"], list(SETTINGS), limit=limit, steps=steps, workers=workers, force=again, back=False
    )


def archive_bits(figures: dict[str, Any]) -> float:
    """Bits a counted sample of an archive, with all that is written for its images, without models and specification."""
    size = figures["archive_bytes"] - figures["fixed_bytes"] - figures["uncounted_bytes"]
    return 8 * float(size) / float(figures["samples"])


def measured(limit: int | None = None) -> dict[str, float | None]:
    """Bits by row, None where nothing is recorded."""
    label = "kodak" if limit is None else f"kodak (first {limit})"
    own = load("sizes").get("result", {}).get(label, {})
    found = {key: archive_bits(own[key]) if key in own else None for key in SETTINGS}
    if WHOLE in own:
        found[WHOLE] = 8 * own[WHOLE]["archive_bytes"] / own[WHOLE]["samples"]
    others = load(conventional.NAME)
    return found | {key: conventional.bits(others, label, key) for key in CONVENTIONAL}


def stale() -> bool:
    """Whether recorded archives were made with other models than those that ship now."""
    own = load("sizes").get("result", {}).get("kodak", {})
    return any(own[key]["context"]["models"] != model_digests() for key in SETTINGS if key in own)


def grid(limit: int | None = None, parameters: str = "-") -> Grid:
    """Table 1, best figures last; what is measured and what is quoted is said in each row."""
    found = measured(limit)
    best = min((value for key in SETTINGS if (value := found[key]) is not None), default=None)
    lines: list[tuple[float, str, str, str]] = []
    missing: list[tuple[str, str, str]] = []
    for key, title in (CONVENTIONAL | OWN).items():
        size = "-" if key not in OWN else SMALL_PARAMETERS if key == WHOLE else parameters
        value = found[key]
        if value is None:
            missing.append((title, size, "not measured yet"))
        else:
            lines.append((value, title, size, "measured here"))
    lines += [(codec.kodak, codec.name, codec.parameters, "quoted") for codec in quoted.TABLE1]
    rows = [
        (
            title,
            f"{value:.3f}" if source == "measured here" else f"{value:.2f}",
            percent(100 * (value / best - 1), 1) if best else "-",
            size,
            source,
        )
        for value, title, size, source in sorted(lines, key=lambda line: -line[0])
    ]
    rows += [(title, "-", "-", size, source) for title, size, source in missing]
    note = (
        f"Measured: {'all 24 images' if limit is None else f'the first {limit} alone'}. "
        "This project's rows count everything in the archive but the models and the specification, the last of them these too; "
        "the other codecs' rows count the bare images (JPEG-LS without a colour transform). Quoted: printed in "
        "the paper, on its own machines and training data (DIV2K and Flickr2K, two million steps)."
    )
    if stale():
        note += " Some archives were made with models before those that ship now."
    reference = "the best row of this project" if best else "-"
    columns = ("codec", "Kodak bpsp", f"to {reference}", "parameters", "source")
    return Grid("Table 1: Kodak, bits per sample", columns, rows, note)
