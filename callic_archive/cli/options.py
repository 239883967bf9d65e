"""Every option of the command line, once."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

F = TypeVar("F", bound=Callable[..., Any])

NO_PATHS = ("region", "subset")  # options of any text that name no files


@dataclass(frozen=True)
class Common:
    """Options that all verbs share."""

    as_json: bool
    quiet: bool
    verbose: bool
    debug: bool
    redact_paths: bool
    progress_interval: float


class PathOf(click.Path):
    """A path. An empty one is none: it would stand for the current folder, which nobody means who wrote ``"$NAME"``."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse an empty path."""
        if not os.fspath(value):
            self.fail("a path is empty; the current folder is .", param, ctx)
        return super().convert(value, param, ctx)


def chosen(**flags: bool) -> str | None:
    """Which of ``flags`` that exclude each other is set; one of the command line wins over one of a variable.

    Raises UsageError where several are.
    """
    from callic_archive.errors import UsageError

    source = click.get_current_context().get_parameter_source
    found = [name for name, on in flags.items() if on]
    if len(found) > 1:
        found = [name for name in found if source(name) is ParameterSource.COMMANDLINE] or found
    if len(found) > 1:
        raise UsageError(f"{' and '.join(f'--{name}' for name in found)} exclude each other; give one of them")
    return found[0] if found else None


_COMMON = [
    click.option("--json", is_flag=True, help="JSON Lines on standard output, text on standard error."),
    click.option("-q", "--quiet", is_flag=True, help="No progress and no summary; problems are still shown."),
    click.option("-v", "--verbose", is_flag=True, help="Say more: every entry and every problem."),
    click.option("--debug", is_flag=True, help="Show Python tracebacks of failures."),
    click.option(
        "--redact-paths",
        is_flag=True,
        help="Show no path in messages and JSON; names of medical files identify people.",
    ),
    click.option(
        "--progress-interval",
        type=click.FloatRange(min=0.1),
        default=60.0,
        show_default=True,
        metavar="SECONDS",
        help="Where there is no terminal: one line of progress an interval.",
    ),
]


def common_options(function: F) -> F:
    """Add the shared options; the function receives them as one ``common``."""

    @wraps(function)
    def collected(**values: Any) -> Any:
        fields = {
            name: values.pop("json" if name == "as_json" else name) for name in Common.__dataclass_fields__
        }
        return function(common=Common(**fields), **values)

    for option in reversed(_COMMON):
        collected = option(collected)
    return collected  # type: ignore[return-value]


archive_argument = click.argument("archive", type=PathOf(path_type=Path))
patterns_argument = click.argument("patterns", nargs=-1, metavar="[PATTERN]...")

# -- resources -----------------------------------------------------------------------------------------------

device_option = click.option(
    "--device", type=click.Choice(["cpu", "cuda"]), help="Default: the GPUs there are, else the CPU."
)
gpus_option = click.option(
    "--gpus",
    type=click.IntRange(min=1),
    metavar="N",
    help="Use N GPUs, one process each; exit 4 if not there.",
)
workers_option = click.option(
    "--workers", type=click.IntRange(min=1), metavar="N", help="CPU worker processes.  [default: one a core]"
)
scheduler_option = click.option(
    "--scheduler",
    metavar="ADDRESS|FILE",
    help="A running Dask cluster that shares this machine's file system.",
)

# -- pack ----------------------------------------------------------------------------------------------------

sources_argument = click.argument("sources", nargs=-1, metavar="SOURCE...", type=PathOf())
files_from_option = click.option(
    "--files-from",
    metavar="FILE",
    type=PathOf(allow_dash=True),
    help="Also pack the paths that FILE lists, under these paths; - is standard input.",
)
null_option = click.option("--null", is_flag=True, help="Paths in the list end with NUL bytes, not lines.")
one_file_system_option = click.option(
    "--one-file-system", is_flag=True, help="Do not enter folders on which other file systems are mounted."
)
output_option = click.option(
    "-o",
    "--output",
    metavar="ARCHIVE",
    type=PathOf(path_type=Path),
    help="The archive to make, a folder; required but for --dry-run. An unfinished ARCHIVE.partial beside it is gone on with.",
)
effort_option = click.option(
    "--effort",
    type=click.Choice(["fast", "default", "max"]),
    default="default",
    show_default=True,
    help="fast: smaller models, as they are. default: models fitted to all. max: that for longer, and adapters for each image.",
)
adapt_option = click.option(
    "--adapt",
    type=click.Choice(["none", "image", "collection", "both", "model", "all"]),
    help="Fit an adapter to each image, one to all, or both; or the models to all; or these, and an adapter to each image."
    "  [default: as --effort says]",
)
models_option = click.option(
    "--model",
    multiple=True,
    metavar="NAME|FILE",
    help="Code images with this model instead of the one that ships for as many planes; may be repeated.",
)
without_models_option = click.option(
    "--without-models",
    is_flag=True,
    help="Leave the models out: who unpacks needs a release that ships them, or their files.",
)
learned_option = click.option(
    "--learned",
    type=click.Choice(["auto", "always", "never"]),
    default="auto",
    show_default=True,
    help="The learned codec: where it saves more than the model that the archive then carries, or as said.",
)
outside_models_option = click.option(
    "--model",
    "models",
    multiple=True,
    metavar="FILE",
    type=PathOf(path_type=Path),
    help="A model that the ARCHIVE was packed without; may be repeated.",
)
steps_option = click.option(
    "--steps", type=click.IntRange(min=1), metavar="T", help="Training steps of an adaptation."
)
coder_option = click.option(
    "--coder",
    type=click.Choice(["range", "torchac"]),
    default="range",
    show_default=True,
    help="The entropy coder.",
)
fidelity_option = click.option(
    "--fidelity",
    type=click.Choice(["auto", "bytes"]),
    default="auto",
    show_default=True,
    help="bytes: every file byte for byte, also where equal pixels and metadata would take less.",
)
include_option = click.option(
    "--include", multiple=True, metavar="GLOB", help="Only files that match (name, or path if it has a /)."
)
exclude_option = click.option(
    "--exclude", multiple=True, metavar="GLOB", help="Leave out what matches, and all below it."
)
dry_run_option = click.option(
    "--dry-run", is_flag=True, help="Show what would be packed and estimate the result; write nothing."
)
no_bands_option = click.option(
    "--no-bands",
    is_flag=True,
    help="Code each file by itself, also where files are bands of one scene.",
)
no_verify_option = click.option(
    "--no-verify", is_flag=True, help="Do not decode each codestream to prove it; not advised."
)

# -- train ---------------------------------------------------------------------------------------------------

model_output_option = click.option(
    "-o",
    "--output",
    required=True,
    metavar="MODEL",
    type=PathOf(path_type=Path),
    help="The model file to make. An unfinished MODEL.partial beside it is gone on with.",
)
base_option = click.option(
    "--base",
    metavar="NAME|FILE",
    help="The model to start from.  [default: the one that ships for most of the images]",
)
minutes_option = click.option(
    "--minutes",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    metavar="M",
    help="Length of the whole training, earlier runs of the same command included.",
)
train_steps_option = click.option(
    "--steps",
    type=click.IntRange(min=1),
    metavar="T",
    help="Length of the whole training in steps instead of minutes.",
)
threads_option = click.option(
    "--threads", type=click.IntRange(min=1), metavar="N", help="CPU threads.  [default: one a core]"
)
rate_option = click.option(
    "--rate",
    type=click.FloatRange(min=0, min_open=True, max=0.1),
    default=1e-3,
    show_default=True,
    metavar="R",
    help="Learning rate at the start of the cosine.",
)

# -- unpack and verify ---------------------------------------------------------------------------------------

directory_option = click.option(
    "-o",
    "--output",
    required=True,
    metavar="DIR",
    type=PathOf(path_type=Path),
    help="Where to restore the tree.",
)
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace files and links that exist; else the run is refused.")
region_option = click.option(
    "--region",
    metavar="REGION",
    help="Of each image only TOP,LEFT,BOTTOM,RIGHT or Y0:Y1,X0:X1, as NPY files; other files are left out.",
)
path_argument = click.argument("path")
force_option = click.option("--force", is_flag=True, help="Write to a terminal even what is no text.")
full_option = click.option("--full", is_flag=True, help="Decode every entry and compare (default).")
quick_option = click.option("--quick", is_flag=True, help="Check checksums of files and records only.")
against_option = click.option(
    "--against",
    metavar="DIR",
    type=PathOf(path_type=Path),
    help="Also compare with the tree in DIR, the folder that holds what was packed.",
)
contents_only_option = click.option(
    "--contents-only",
    is_flag=True,
    help="Compare kinds, contents and link targets, not modes, times and hard links.",
)
subset_option = click.option(
    "--subset",
    metavar="N/M|P%",
    help="Check part N of M alone, or P percent: each day the next part.",
)
tree_argument = click.argument("tree", metavar="DIR", type=PathOf(path_type=Path))

# -- salvage -------------------------------------------------------------------------------------------------

salvaged_option = click.option(
    "-o",
    "--output",
    required=True,
    metavar="DIR|NEW.callic",
    type=PathOf(path_type=Path),
    help="Where to restore what is left; a name that ends in .callic: a new archive of it.",
)
loss_report_option = click.option(
    "--report",
    "loss_report",
    metavar="FILE",
    type=PathOf(path_type=Path),
    help="Also write what came back and what is lost to FILE, as JSON.",
)
