"""What ``pack`` says at its end: counts, sizes, what was left out and why."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from callic_archive.cli.report import Report, plural, size_text

if TYPE_CHECKING:
    from callic_archive.archive.commit import Finished
    from callic_archive.archive.entries import Entry
    from callic_archive.archive.packing import PackRun


def is_jpeg(entry: Entry) -> bool:
    """Whether a file that is no image of the codec is kept as JPEG XL, wholly or in parts."""
    return not entry.is_image and any(part.coding in ("jpeg", "jpegs") for part in entry.parts)


def count(report: Report, run: PackRun) -> None:
    """Put what was packed, as far as it came, into the summary."""
    files = [entry for entry in run.entries.values() if entry.kind == "file"]
    images = [entry for entry in files if entry.is_image]
    stored = {part.place: part.place.stored for entry in files for part in entry.parts}
    report.summary |= {
        "entries": len(run.entries),
        "files": len(files),
        "images": len(images),
        "jpeg": sum(is_jpeg(entry) for entry in files),
        "verbatim": sum(not entry.is_image and not is_jpeg(entry) for entry in files),
        "reasons": dict(sorted(Counter(entry.reason for entry in files if entry.reason is not None).items())),
        "fidelity": {
            "bytes": sum(entry.fidelity == "bytes" for entry in files),
            "content": sum(entry.fidelity == "content" for entry in files),
        },
        "resumed": run.resumed,
        "missing": len(run.scan.sources) - len(run.entries),
        "source_bytes": sum(entry.size for entry in files),
        "stored_bytes": sum(stored.values()),
    }


def named_models(models: tuple[str, ...]) -> dict[str, str]:
    """Digest of each model that the user named. Raises ModelError."""
    if not models:
        return {}
    from callic_archive.model.catalogue import find_model

    return {text: find_model(text).model.digest for text in models}


def idle_models(report: Report, run: PackRun, named: dict[str, str]) -> None:
    """Say which of the models that the user named no image needed: the archive does not carry them."""
    used = {digest for entry in run.entries.values() for digest in entry.models()}
    for text, digest in named.items():
        if digest not in used:
            report.note(f"no image was coded with {report.shown(text)}, so the archive does not carry it")


def _declined(report: Report, run: PackRun) -> None:
    """Say where the learned codec was not used, since its models would take more than they save."""
    verdict = run.verdict
    report.summary |= {"learned": run.settings.get("learned"), "models_declined": verdict.as_json()}
    if verdict.cost:
        report.text(
            f"  learned codec: left out where it would save {'about' if verdict.measured else 'at most'} "
            f"{size_text(verdict.saved)} and add {size_text(verdict.cost)} of model and specification; --learned always uses it, "
            "and --without-models, without that cost"
        )
    if verdict.smaller:
        report.text("  learned codec: with small models where they make the smaller archive")


def summarise(report: Report, run: PackRun, finished: Finished, output: Path, adapt: str) -> None:
    """Tell of a finished archive."""
    counts = report.summary
    images = [entry for entry in run.entries.values() if entry.is_image]
    unique = {(part.place, part.stream): part for entry in images for part in entry.parts}
    image_bytes = sum(part.stored for part in unique.values())
    samples = sum(part.stream.samples for part in unique.values() if part.stream is not None)
    bits = 8 * image_bytes / samples if samples else None
    adapters = sorted({digest for entry in images for digest in entry.adapters()})
    used = {digest for entry in images for digest in entry.models()}
    fitted = sorted(used & {path.name.split(".")[0] for path in run.fitted})
    counts |= {
        "archive": report.path(output),
        "archive_bytes": finished.archive_bytes,
        "model_bytes": finished.model_bytes,
        "models_outside": list(finished.models_outside),
        "image_bytes": image_bytes,
        "image_samples": samples,
        "bits_per_sample": round(bits, 4) if bits is not None else None,
        "adapt": adapt,
        "adapters": len(adapters),
        "models_fitted": fitted,
    }
    ratio = f", ratio {counts['source_bytes'] / counts['stored_bytes']:.2f}" if counts["stored_bytes"] else ""
    report.text(
        f"packed {plural(counts['files'], 'file')} into {report.shown(output)}: "
        f"{size_text(counts['source_bytes'])} -> {size_text(counts['stored_bytes'])}{ratio}"
    )
    if images:
        report.text(
            f"  {plural(len(images), 'image file')} coded as images: "
            f"{size_text(sum(e.size for e in images))} -> {size_text(image_bytes)}, {bits:.3f} bits a sample"
        )
    jpegs = [entry for entry in run.entries.values() if entry.kind == "file" and is_jpeg(entry)]
    if jpegs:
        places = {part.place: part.place.stored for entry in jpegs for part in entry.parts}
        report.text(
            f"  {plural(len(jpegs), 'file')} with JPEG inside, recoded so that its bytes come back: "
            f"{size_text(sum(e.size for e in jpegs))} -> {size_text(sum(places.values()))}"
        )
    if counts["verbatim"]:
        why = ", ".join(f"{code} {n}" for code, n in counts["reasons"].items())
        told = f"; images among them, by the reasons that `list` shows: {why}" if why else ""
        report.text(f"  {plural(counts['verbatim'], 'file')} kept verbatim{told}")
    if counts["fidelity"]["content"]:
        content = plural(counts["fidelity"]["content"], "file")
        text = "will come back with equal pixels and metadata but other compressed bytes"
        report.text(f"  {content} {text} (--fidelity bytes forbids that)")
    _declined(report, run)
    report.text(f"  adaptation: {_adaptation(adapt, len(adapters), len(fitted), bool(images))}")
    models = f", {size_text(finished.model_bytes)} of it models" if finished.model_bytes else ""
    report.text(
        f"  the archive takes {size_text(finished.archive_bytes)} with index and specification{models}"
    )
    if 0 < counts["source_bytes"] <= finished.archive_bytes:
        report.text("  that is no less than its source: specification and index take their bytes in the smallest archive too")
    if finished.models_outside:
        named = ", ".join(digest[:16] for digest in finished.models_outside)
        report.text(f"  unpacking needs what was left out: {plural(len(finished.models_outside), 'model')} {named}")
    if report.counts["problems"]:
        report.text(f"  {plural(report.counts['problems'], 'problem')}, each named above", always=True)


def _adaptation(adapt: str, adapters: int, fitted: int, images: bool) -> str:
    more = "; --effort max: smaller, but much slower" if images else ""
    if adapt in ("model", "all"):
        shared = f"{plural(fitted, 'model')} fitted to the collection" if fitted else "no model fitted, as none would pay"
        return shared + (", and adapters to the images where that pays" if adapt == "all" and images else more)
    if adapt == "both":
        shared = (
            f"{plural(adapters, 'adapter')} fitted to the collection, and" if adapters else "none shared, but"
        )
        return f"{shared} one of their own for the images where that pays"
    if adapt == "image":
        return "each image has an adapter of its own where that pays"
    if adapt == "none":
        return f"none{more}"
    if adapters:
        return f"{plural(adapters, 'adapter')} fitted to the collection{more}"
    return f"none, as no adapter would pay for this collection{more}"
