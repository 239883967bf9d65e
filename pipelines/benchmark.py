"""Measure what the documentation claims, and write ``docs/benchmarks.md`` and ``docs/paper.md`` from it.

    python -m pipelines.benchmark sizes --sets kodak,ct
    python -m pipelines.benchmark speed
    python -m pipelines.benchmark paper table3
    python -m pipelines.benchmark render

Every subcommand prints tables and leaves its figures in ``manifests/benchmarks/NAME.json``; ``render`` reads only
those. The evaluation data is found below ``../shared`` or ``$CALLIC_SHARED``. Nothing here needs a GPU.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import click

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, before torch is imported

from pipelines.benchmarks import record
from pipelines.benchmarks.eval_sets import SETS, files
from pipelines.benchmarks.paper.commands import paper


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
def main() -> None:
    """Measure sizes, exactness, prices, speed and memory; render docs/benchmarks.md."""


def _sets(context: click.Context, parameter: click.Parameter, value: str) -> list[str]:
    names = list(SETS) if value == "all" else [name.strip() for name in value.split(",") if name.strip()]
    unknown = sorted(set(names) - set(SETS))
    if unknown:
        raise click.BadParameter(f"no such set: {', '.join(unknown)}; there are {', '.join(SETS)}")
    return names


def _threads(context: click.Context, parameter: click.Parameter, value: str) -> list[int]:
    try:
        return [max(1, int(part)) for part in value.split(",")]
    except ValueError:
        raise click.BadParameter("give numbers with commas between them") from None


sets_option = click.option(
    "--sets", default="all", callback=_sets, help="sets with commas between them, or all"
)
threads_option = click.option("--threads", default="2", callback=_threads, help="thread counts")


def _trial(name: str, small: object) -> str:
    """The record's name; figures of a run made small to try it out never stand where the page looks."""
    return f"{name}-trial" if small else name


@main.command()
@sets_option
@click.option(
    "--adapt",
    "adapts",
    type=click.Choice(["none", "collection", "image", "default"]),
    multiple=True,
    default=["none", "collection", "default"],
    help="default: pack as it comes, which leaves out models that do not pay",
)
@click.option(
    "--steps", type=int, default=None, help="training steps of an adaptation [the program's default]"
)
@click.option("--limit", type=int, default=None, help="only the first files of each set (recorded apart)")
@click.option("--workers", type=int, default=None, help="worker processes [one a core]")
@click.option("--conventional/--no-conventional", default=True, help="measure the conventional codecs too")
@click.option("--force", is_flag=True, help="measure again what is recorded")
@click.option("--back/--no-back", default=True, help="verify and unpack too, and compare with the source")
def sizes(
    sets: list[str],
    adapts: tuple[str, ...],
    steps: int | None,
    limit: int | None,
    workers: int | None,
    conventional: bool,
    force: bool,
    back: bool,
) -> None:
    """Whole archives of the evaluation sets beside conventional codecs; everything unpacked and compared."""
    from pipelines.benchmarks import conventional as others
    from pipelines.benchmarks import sizes as own

    if conventional:
        labels = {name if limit is None else f"{name} (first {limit})": files(name, limit) for name in sets}
        others.update(labels)
    found = own.update(sets, list(adapts), limit=limit, steps=steps, workers=workers, force=force, back=back)
    record.show(own.grids(found, record.load(others.NAME)))


@main.command()
def exactness() -> None:
    """Every backend against the int64 reference; streams that one process wrote, decoded in others."""
    from pipelines.benchmarks import exactness as part

    record.show(part.grids(record.save(part.NAME, part.measure())))


@main.command()
@click.option(
    "--checkpoint",
    "checkpoints",
    metavar="MODEL=FILE",
    multiple=True,
    help="what a shipped model was rounded from; repeated  [default: runs/MODEL/checkpoint.pt]",
)
@click.option("--side", type=int, default=256, help="side of the centre crops")
@click.option("--limit", type=int, default=None, help="only the first images of each set")
@click.option("--bits", default="8,7,6", callback=_threads, help="widths of the linear layers' weights")
def integers(checkpoints: tuple[str, ...], side: int, limit: int | None, bits: list[int]) -> None:
    """The price of integers: the float32 checkpoints against their roundings."""
    from pipelines.benchmarks import integers as part

    named = dict(word.split("=", 1) for word in checkpoints if "=" in word)
    if len(named) != len(checkpoints):
        raise click.UsageError("--checkpoint takes MODEL=FILE, once for each model")
    found = part.measure({name: Path(file) for name, file in named.items()}, side, limit, bits)
    record.show(part.grids(record.save(_trial(part.NAME, limit), found)))


@main.command()
@click.option("--images", type=int, default=24, help="Kodak images for the range coder")
@click.option("--torchac-images", type=int, default=2, help="Kodak images for torchac")
@click.option("--crop", type=int, default=None, help="only centres of this side")
def coder(images: int, torchac_images: int, crop: int | None) -> None:
    """Overhead of the entropy coders over the ideal code length on Kodak, and ns a symbol."""
    from pipelines.benchmarks import coder as part

    name = _trial(part.NAME, crop or images < 24)
    record.show(part.grids(record.save(name, part.measure(images, torchac_images, crop))))


@main.command()
@click.option("--image", type=int, default=5, help="number of the Kodak image")
@click.option("--threads", default="1,2", callback=_threads, help="thread counts, one after another")
@click.option("--repeats", type=int, default=3, help="interleaved runs, of which the median is taken")
@click.option("--crop", type=int, default=None, help="only the image's centre of this side")
@click.option("--patch", type=int, default=64, help="side of the patch for CCI against full maps")
def speed(image: int, threads: list[int], repeats: int, crop: int | None, patch: int) -> None:
    """Encoding, decoding and CCI as ratios to float32 and to full passes, side by side in one run."""
    from pipelines.benchmarks import speed as part

    found = part.measure(image, threads, repeats, crop, patch)
    record.show(part.grids(record.save(_trial(part.NAME, crop or patch < 64), found)))


@main.command()
@click.option("--threads", type=int, default=1)
@click.option("--repeats", type=int, default=7, help="interleaved runs, of which the median is taken")
def step(threads: int, repeats: int) -> None:
    """The training step of every model: fused against plain, and its share of the matrix throughput. What is recorded
    under other instructions (ONEDNN_MAX_CPU_ISA) stays."""
    from pipelines.benchmarks import step as part

    earlier = record.load(part.NAME).get("result", {})
    found = part.measure(threads, repeats)
    record.show(part.grids(record.save(_trial(part.NAME, repeats < 5), earlier | found)))


@main.command()
@click.option("--steps", type=int, default=50, help="training steps, with the whole share of patches each")
@click.option("--side", type=int, default=384, help="side of the images' centres")
@click.option("--threads", type=int, default=2)
def rpft(steps: int, side: int, threads: int) -> None:
    """RPFT's schedule against all patches from the start: seconds and bits per sample (part of `speed`)."""
    from pipelines.benchmarks import rpft as part

    found = part.measure(steps, side, threads)
    record.show(part.grids(record.save(_trial(part.NAME, side < 384 or steps < 50), found)))


@main.command()
@click.option("--megapixels", type=float, default=4.0, help="size of the synthetic image; 100 takes long")
@click.option("--bits", type=click.Choice(["8", "16"]), default="16")
@click.option("--format", "kind", type=click.Choice(["tiff", "png", "zarr"]), default="tiff")
@click.option("--adapt", type=click.Choice(["none", "collection"]), default="collection")
@click.option("--workers", type=int, default=None, help="worker processes [one a core]")
@click.option(
    "--codec",
    type=click.Choice(["learned", "deflate"]),
    default="learned",
    help="deflate: the tests' fast codec, to measure what lies around a codec",
)
@click.option("--back/--no-back", default=True, help="verify and unpack too")
def memory(
    megapixels: float, bits: str, kind: str, adapt: str, workers: int | None, codec: str, back: bool
) -> None:
    """Peak memory and time of packing, verifying and unpacking one large image, and how soon small things are done."""
    from pipelines.benchmarks import memory as part

    record.show(part.grids(part.update(megapixels, int(bits), kind, adapt, workers, codec, back)))


@main.command()
@sets_option
@click.option("--images", type=int, default=2, help="images a set that get an adapter of their own")
@click.option("--limit", type=int, default=None, help="only the first files of each set")
@click.option("--steps", type=int, default=50)
@click.option("--threads", type=int, default=2)
def adapt(sets: list[str], images: int, limit: int | None, steps: int, threads: int) -> None:
    """What adaptation gains and costs, for single images and for whole sets."""
    from pipelines.benchmarks import adaptation as part

    record.show(part.grids(part.update(sets, images, limit, steps, threads)))


@main.command("own-model")
@click.option("--sets", default="ct,mr,histology,satellite_16bit", help="evaluation sets, with commas between them")
@click.option("--steps", type=click.IntRange(1), default=400, show_default=True, help="training steps of the model")
@click.option("--threads", type=click.IntRange(1), default=2)
@click.option("--small", is_flag=True, help="from the small base models, beside their adapters")
def own_model(sets: str, steps: int, threads: int, small: bool) -> None:
    """What `callic-archive train` gives over the collection's adapter."""
    from pipelines.benchmarks import own_model as part

    record.show(part.grids(part.update(sets.split(","), steps, threads, small=small)))


@main.command()
@click.option(
    "--codec", type=click.Choice(["learned", "test"]), default="test", help="which codec codes images"
)
@click.option("--limit-megapixels", type=float, default=None, help="leave larger files out; they are counted")
@click.option(
    "--parts", default="eval,robustness,train", help="folders of the data (others are recorded apart)"
)
def formats(codec: Literal["learned", "test"], limit_megapixels: float | None, parts: str) -> None:
    """What becomes of each file format: everything packed, verified, unpacked, compared and counted."""
    from pipelines.benchmarks import formats as part

    chosen = tuple(name.strip() for name in parts.split(",") if name.strip())
    found = part.measure(codec, chosen, limit_megapixels)
    record.show(part.grids(record.save(_trial(part.NAME, chosen != part.SETS), found)))


@main.command()
@click.option("--output", type=click.Path(path_type=Path), default=Path("docs/benchmarks.md"))
def render(output: Path) -> None:
    """Write docs/benchmarks.md, and docs/paper.md with its plots beside it, from the recorded figures."""
    from pipelines.benchmarks import render as part
    from pipelines.benchmarks.paper import page

    text, missing = part.page()
    output.write_text(text, "utf-8")
    click.echo(f"wrote {output}" + (f"; not measured yet: {', '.join(missing)}" if missing else ""))
    try:
        text, missing = page.page(part.origin, output.parent / "figures")
    except ModuleNotFoundError as error:
        raise click.ClickException(f"{error}: plots need the extra `benchmark`") from error
    output = output.with_name("paper.md")
    output.write_text(text, "utf-8")
    click.echo(f"wrote {output}" + (f"; not complete yet: {', '.join(missing)}" if missing else ""))


main.add_command(paper)

if __name__ == "__main__":
    main()
