"""All verbs of ``callic-archive``, and what happens when the words of a command do not fit."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Sequence

import click

from callic_archive import __version__
from callic_archive.cli.cat import cat
from callic_archive.cli.diff import diff
from callic_archive.cli.doctor import doctor
from callic_archive.cli.info import info
from callic_archive.cli.list import list_
from callic_archive.cli.models import models
from callic_archive.cli.pack import pack
from callic_archive.cli.report import JSON_VERSION
from callic_archive.cli.salvage import salvage
from callic_archive.cli.train import train
from callic_archive.cli.unpack import unpack
from callic_archive.cli.verify import verify

# Threads that wait for others sleep instead of spinning: on machines with other work, and with more threads than
# free cores, training is two to five times as fast. OpenMP reads this once, when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_VARIABLES = "CALLIC_ARCHIVE"  # how the names of variables for options begin

EXIT_CODES = """\b
Exit codes:
  0    all done
  1    done, but some sources failed (each is named)
  2    wrong usage: nothing was begun
  3    the archive is corrupt, or the verification failed
  4    the environment does not allow it: no such GPU, no space, nothing can be written
  75   stopped early (SIGTERM, SIGUSR1, SIGHUP); the same command goes on where it was
  130  interrupted from the keyboard; the same command goes on where it was

Options can also be given as variables: CALLIC_ARCHIVE_PACK_WORKERS=4 stands for `pack --workers 4`.
"""


# What other archivers call it, and what to do instead.
ADDING = ("--append", "--add", "--update", "--freshen", "-u", "-r", "-A")
NEVER_CHANGES = (
    "Nothing is added to a finished archive, so that it can be trusted: pack what is new into another one "
    "(callic-archive pack NEW... -o OTHER.callic). `callic-archive diff ARCHIVE DIR` tells what is new."
)


@click.group(
    context_settings={
        "help_option_names": ["-h", "--help"],
        "auto_envvar_prefix": _VARIABLES,
        "max_content_width": 110,
    },
    epilog=EXIT_CODES,
)
@click.version_option(__version__, prog_name="callic-archive")
def cli() -> None:
    """Lossless archives of images, with a learned codec that decodes to the same bits on any machine.

    Files that are no images, or that the codec cannot shrink, are kept byte for byte.
    """


for command in (pack, unpack, cat, verify, diff, salvage, list_, info, models, train, doctor):
    cli.add_command(command)


def run(words: Sequence[str]) -> None:
    """Do what the words say; ends the process with an exit code."""
    _open_what_is_closed()
    words = list(words)
    try:
        code = cli.main(words, prog_name="callic-archive", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(130)
    except click.ClickException as error:
        if isinstance(error, click.NoSuchOption) and _verb(words) == "pack" and error.option_name in ADDING:
            text = f"{error.message} {NEVER_CHANGES}"
            error = click.NoSuchOption(error.option_name, text, ctx=error.ctx)
        if _wants(words, "redact-paths"):
            error = click.UsageError(_redacted(error.format_message(), words), ctx=getattr(error, "ctx", None))
        error.show()
        if _wants(words, "json"):
            _usage_summary(words, error.format_message())
        sys.exit(2)


def _open_what_is_closed() -> None:
    """Give standard streams that the shell closed (``>&-``) somewhere to go, so that no archive is opened in their place."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            with contextlib.suppress(OSError):
                opened = os.open(os.devnull, os.O_RDWR)
                if opened != number:
                    os.dup2(opened, number)
                    os.close(opened)
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115  as long as the process


def _wants(words: Sequence[str], flag: str) -> bool:
    verb = _verb(words)
    name = f"{_VARIABLES}_{verb}_{flag}".upper().replace(" ", "_").replace("-", "_")
    variable = os.environ.get(name, "") if verb else ""
    return f"--{flag}" in words or variable.lower() in ("1", "true", "yes", "on", "t", "y")


def _redacted(message: str, words: Sequence[str]) -> str:
    """What is wrong with the words, without those that may name a file: nobody can tell yet which do."""
    from callic_archive.cli.redaction import Redaction

    named = list(words[len(_verb(words).split()) :])
    named += [value for name, value in os.environ.items() if name.startswith(_VARIABLES)]
    values = [word.partition("=")[2] if word.startswith("--") else word[2:] if word.startswith("-") else word for word in named]
    redaction = Redaction()
    redaction.hide(value for value in values if value and not value.replace(".", "").isdigit())
    return redaction.clean(message)


def _verb(words: Sequence[str]) -> str:
    first = cli.commands.get(words[0]) if words else None
    if first is None:
        return ""
    inner = first.commands if isinstance(first, click.Group) else {}
    return " ".join(words[:2]) if len(words) > 1 and words[1] in inner else words[0]


def _usage_summary(words: Sequence[str], message: str) -> None:
    summary = {
        "v": JSON_VERSION,
        "event": "summary",
        "verb": _verb(words),
        "exit_code": 2,
        "seconds": 0.0,
        "problems": 0,
        "error": {"code": "E001", "message": message},
    }
    sys.stdout.write(json.dumps(summary) + "\n")
