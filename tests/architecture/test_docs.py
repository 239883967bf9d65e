"""The documentation says what is: commands, options, links, modules and error codes are checked here."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from callic_archive.cli.verbs import cli as command_line
from pipelines import generated_docs

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
CLI_PAGE = ROOT / "docs/cli.md"
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")


def page_ids(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def commands(group: click.Group = command_line, prefix: str = "") -> dict[str, click.Command]:
    """Every command of the command line by name (``models list`` too), hidden ones left out."""
    found: dict[str, click.Command] = {}
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            found |= commands(command, f"{prefix}{name} ")
        elif not command.hidden:
            found[f"{prefix}{name}"] = command
    return found


def options(command: click.Command) -> set[str]:
    """All long options of a command, ``--help`` and both halves of ``--a/--b`` included."""
    context = click.Context(command)
    visible = [p for p in command.get_params(context) if not (isinstance(p, click.Option) and p.hidden)]
    return {o for p in visible for o in [*p.opts, *p.secondary_opts] if o.startswith("--")}


def sections(page: Path) -> dict[str, str]:
    """The text below each ``##`` heading of a page."""
    parts = re.split(r"^## +(.+)$", page.read_text("utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_each_command_has_a_section_and_each_section_a_command() -> None:
    headings = {h.strip("`") for h in sections(CLI_PAGE) if h.startswith("`callic-archive ")}
    assert headings == {f"callic-archive {name}" for name in commands()}


def documented_options(heading: str) -> set[str]:
    """The options in the first column of the tables below a heading of the command line's page."""
    rows = re.findall(r"^\| (`(?:[^|]|\\\|)*`) \|", sections(CLI_PAGE)[heading], flags=re.MULTILINE)
    return {option for row in rows for option in OPTION.findall(row)}


def shared_options() -> set[str]:
    return set.intersection(*(options(command) for command in commands().values()))


@pytest.mark.parametrize("name", commands())
def test_each_option_is_documented_and_each_documented_option_exists(name: str) -> None:
    documented = documented_options(f"`callic-archive {name}`")
    own = options(commands()[name]) - shared_options()
    assert documented - own == set(), "documented, but the command has no such option of its own"
    assert own - documented == set(), "not documented"


def test_the_shared_options_are_documented_once() -> None:
    assert documented_options("Options that all commands share") == shared_options()


def test_the_exit_codes_are_the_same_everywhere() -> None:
    told = [
        re.findall(pattern, text, flags=re.MULTILINE)
        for pattern, text in (
            (r"^  (\d+) ", command_line.epilog or ""),
            (r"^\| (\d+) \|", sections(CLI_PAGE)["Exit codes"]),
            (r"^\| (\d+) \|", sections(ROOT / "README.md")["Exit codes"]),
        )
    ]
    assert told[0] == told[1] == told[2]
    assert len(told[0]) == 7


def command_lines(text: str) -> Iterator[tuple[str, str]]:
    """(command, rest) for each ``callic-archive COMMAND ...`` in code; continued lines count as one."""
    text = re.sub(r"\\\n\s*", " ", text)
    fenced = re.findall(r"^```(?:sh|bash|text|console)?\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    indented = re.findall(r"^ {4,}(.*callic-archive .*)$", text, flags=re.MULTILINE)
    inline = re.findall(r"`([^`\n]*callic-archive [^`\n]*)`", text)
    for code in [*fenced, *indented, *inline]:
        for match in re.finditer(r"(?:^|[\s`$(])callic-archive +([a-z][a-z-]*)([^\n`#|;&]*)", code):
            name, rest = match[1], match[2]
            if isinstance(command_line.commands.get(name), click.Group):
                inner, _, rest = rest.strip().partition(" ")
                name = f"{name} {inner}"
            yield name, rest


@pytest.mark.parametrize("page", PAGES, ids=page_ids)
def test_commands_named_in_the_docs_exist(page: Path) -> None:
    known = commands()
    for name, rest in command_lines(page.read_text("utf-8")):
        assert name in known, f"`callic-archive {name}` does not exist"
        unknown = set(OPTION.findall(rest)) - options(known[name]) - options(command_line)
        assert not unknown, f"`callic-archive {name}` has no {', '.join(sorted(unknown))}"


SCRIPTS = sorted(p for p in (ROOT / "pipelines").rglob("*") if p.suffix in (".sh", ".sbatch"))


@pytest.mark.parametrize("script", SCRIPTS, ids=page_ids)
def test_scripts_are_valid_and_call_what_exists(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    known = commands()
    for name, rest in command_lines(f"```sh\n{script.read_text('utf-8')}```\n"):
        assert name in known, f"`callic-archive {name}` does not exist"
        assert set(OPTION.findall(rest)) <= options(known[name])


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, made as the common renderers make them."""
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ +(.+?) *$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=page_ids)
def test_links_between_pages_resolve(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{target}: no such file"
        assert linked.is_relative_to(ROOT), f"{target}: lies outside the project"
        if anchor:
            assert anchor in anchors(linked), f"{target}: no such heading"


def test_every_page_is_reachable_from_the_index() -> None:
    index = ROOT / "docs/index.md"
    seen, open_pages = {index}, [index]
    while open_pages:
        page = open_pages.pop()
        for target in re.findall(r"\]\(([^)#\s]+\.md)", page.read_text("utf-8")):
            linked = (page.parent / target).resolve()
            if linked.is_file() and linked not in seen:
                seen.add(linked)
                open_pages.append(linked)
    lost = {page_ids(page) for page in (ROOT / "docs").rglob("*.md")} - {page_ids(page) for page in seen}
    assert not lost


def test_paths_named_in_the_docs_exist() -> None:
    named = re.compile(r"`((?:callic_archive|docs|pipelines|tests|manifests)/[\w./-]*[\w/])`")
    for page in PAGES:
        for path in named.findall(page.read_text("utf-8")):
            assert (ROOT / path).exists(), f"{page_ids(page)} names {path}, which does not exist"


def test_the_list_of_modules_is_true() -> None:
    page = generated_docs.ARCHITECTURE_PAGE.read_text("utf-8")
    assert page == generated_docs.architecture_page(), "run `python -m pipelines.generated_docs`"


def test_the_list_of_decisions_is_true() -> None:
    page = generated_docs.DECISIONS_PAGE.read_text("utf-8")
    assert page == generated_docs.decisions_page(), "run `python -m pipelines.generated_docs`"


def test_every_error_code_is_described_and_unique() -> None:
    codes = [error.code for error in generated_docs.error_classes()]
    assert len(codes) == len(set(codes)), "two errors share a code"
    assert {code[:2] for code in codes} <= set(generated_docs.RANGES)
    page = generated_docs.ERROR_PAGE.read_text("utf-8")
    assert page == generated_docs.error_page(), "run `python -m pipelines.generated_docs`"


def tracked_text() -> Iterator[tuple[str, str]]:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    for name in listing.stdout.decode("utf-8").split("\0"):
        path = ROOT / name
        if name and path.is_file() and not path.is_symlink():
            try:
                yield name, path.read_text("utf-8")
            except UnicodeDecodeError:
                continue


def test_no_file_names_a_machine_or_a_workplace() -> None:
    """Nothing depends on where it was written. The words are put together so that this file is not found."""
    banned = re.compile(r"(?<![\w.)}])/(?:wo" + r"rk|ro" + r"ot|ho" + r"me/\w+)/|sand" + "box", re.IGNORECASE)
    found = [f"{name}: {match[0]}" for name, text in tracked_text() for match in banned.finditer(text)]
    assert not found
