"""The commands ``python -m pipelines.benchmark paper ...``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from pipelines.benchmarks import record

Command = TypeVar("Command", bound=Callable[..., Any])


@click.group()
def paper() -> None:
    """The paper's tables and figures on this project's own runs (docs/paper.md)."""


def _numbers(context: click.Context, parameter: click.Parameter, value: str) -> list[int]:
    try:
        found = [int(part) for part in value.split(",") if part.strip()]
    except ValueError:
        raise click.BadParameter("give numbers with commas between them") from None
    if any(number < 0 for number in found):
        raise click.BadParameter("give numbers from zero on")
    return found


def common(command: Command) -> Command:
    """Options of every part."""
    command = click.option("--again", is_flag=True, help="forget what is recorded, measure anew")(command)
    return click.option("--quick", is_flag=True, help="try it out in a minute; recorded apart")(command)


threads_option = click.option("--threads", type=click.IntRange(1), default=1, help="CPU threads")


def _name(name: str, quick: bool) -> str:
    return f"{name}-trial" if quick else name


@paper.command()
@common
@click.option("--workers", type=click.IntRange(1), default=None, help="worker processes [one a core]")
def table1(quick: bool, again: bool, workers: int | None) -> None:
    """Kodak: this project's archives and conventional codecs, beside what the paper prints."""
    from pipelines.benchmarks.paper import kodak

    limit = 1 if quick else None
    kodak.update(limit, again=again, workers=workers)
    record.show([kodak.grid(limit)])


@paper.command()
@common
@click.option("--image", type=click.IntRange(1, 24), default=5, help="number of the Kodak image")
@click.option("--side", type=click.IntRange(64), default=192, help="side of its centre")
@click.option("--patch", type=click.IntRange(1), default=64, help="side of the patches")
@click.option("--steps", type=click.IntRange(1), default=30, help="steps of adaptation")
@click.option("--repeats", type=click.IntRange(1), default=2, help="runs of what takes seconds")
@threads_option
def table2(
    quick: bool, again: bool, image: int, side: int, patch: int, steps: int, repeats: int, threads: int
) -> None:
    """Times with and without CCI and RPFT, each beside the same reference."""
    from pipelines.benchmarks.paper import times

    if quick:
        side, patch, steps, repeats = 64, 16, 2, 1
    name = _name(times.NAME, quick)
    record.show([times.grid(times.update(image, side, patch, steps, repeats, threads, name, again=again))])


def budget_options(command: Command) -> Command:
    """How long the models of tables 3 and 4 are trained."""
    for option in (
        threads_option,
        click.option("--seed", type=int, default=1, help="of crops and first weights"),
        click.option("--rate", type=float, default=2e-3, help="learning rate"),
        click.option("--crop", type=click.IntRange(16), default=64, help="side of the crops"),
        click.option("--batch", type=click.IntRange(1), default=2, help="crops a step"),
        click.option(
            "--steps",
            type=click.IntRange(1),
            default=240,
            help="steps of each model; 240 are about 2 minutes",
        ),
    ):
        command = option(command)
    return command


def _architectures(which: str, quick: bool, again: bool, **options: Any) -> None:
    from pipelines.benchmarks.paper import architectures
    from pipelines.benchmarks.paper.budget import Budget

    budget = Budget(**options)
    if quick:
        budget = Budget(steps=2, batch=1, crop=16, held=1, kodak=1, held_side=64, threads=budget.threads)
    trials, grid = {
        "table3": (architectures.TABLE3, architectures.grid3),
        "table4": (architectures.TABLE4, architectures.grid4),
    }[which]
    found = architectures.update(trials, budget, _name(architectures.NAME, quick), again=again)
    record.show([grid(found)])


@paper.command()
@common
@budget_options
def table3(quick: bool, again: bool, **options: Any) -> None:
    """Depth 1/3/5, width 64/128/192/256, kernel 5/7/9/11 at equal training budgets.

    Shares its record with table4: `--again` forgets both.
    """
    _architectures("table3", quick, again, **options)


@paper.command()
@common
@budget_options
def table4(quick: bool, again: bool, **options: Any) -> None:
    """Convolutional gating against neighbourhood attention and a plain convolution, at table 3's budget."""
    _architectures("table4", quick, again, **options)


kodak_option = click.option(
    "--kodak", default="5", callback=_numbers, help="Kodak images beside the held-out training images"
)


@paper.command()
@common
@kodak_option
@click.option("--steps", default="0,10,25,50,100", callback=_numbers, help="values of T")
@click.option("--side", type=click.IntRange(64), default=384, help="side of the images' centres")
@click.option(
    "--patches",
    type=click.IntRange(0),
    default=8,
    help="patches a step, 0 for the whole share as in the paper",
)
@threads_option
def figure3(
    quick: bool, again: bool, kodak: list[int], steps: list[int], side: int, patches: int, threads: int
) -> None:
    """Bits against the steps of image adaptation."""
    from pipelines.benchmarks.paper import adapting

    images = adapting.image_names(adapting.HELD_OUT, kodak)
    if quick:
        images, steps, side, patches = images[-1:], [0, 1, 2], 64, 1
    found = adapting.update_steps(
        images, steps, side, patches or None, threads, _name(adapting.STEPS_NAME, quick), again=again
    )
    record.show([adapting.grid_steps(found)])


@paper.command()
@common
@click.option("--kodak", default="5", callback=_numbers, help="Kodak images beside the held-out ones")
@click.option("--steps", type=click.IntRange(1), default=30, help="steps of adaptation")
@click.option("--side", type=click.IntRange(64), default=256, help="side of the images' centres")
@threads_option
def figure4(quick: bool, again: bool, kodak: list[int], steps: int, side: int, threads: int) -> None:
    """Configurations of RPFT: schedule, order of the patches, layers."""
    from pipelines.benchmarks.paper import adapting

    images = adapting.image_names(adapting.HELD_OUT, kodak)
    if quick:
        images, steps, side = images[-1:], 2, 128
    found = adapting.update_configurations(
        images, steps, side, threads, _name(adapting.CONFIGURATIONS_NAME, quick), again=again
    )
    record.show([adapting.grid_configurations(found)])


@paper.command(name="all")
@common
@click.pass_context
def everything(context: click.Context, quick: bool, again: bool) -> None:
    """All parts with their default settings, one after another; what is recorded is not measured again."""
    for command in (table1, table2, table3, table4, figure3, figure4):
        # The record of tables 3 and 4 is one: forgetting it twice would lose what was measured just now.
        context.invoke(command, quick=quick, again=again and command is not table4)
