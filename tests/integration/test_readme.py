"""README.md, CONTRIBUTING.md and docs/: what they print, link to and name is there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from avmodel.cli import main as avmodel
from avprep.cli import main as avprep
from tests.integration.readme import (
    CONSOLE,
    README,
    TOP,
    commands_of,
    python_block,
    run_command,
    run_python,
    sessions,
    without_timings,
)

PAGES = [README, TOP / "CONTRIBUTING.md", *sorted((TOP / "docs").glob("*.md"))]
GROUPS = {"avprep": avprep, "avmodel": avmodel}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where a reader pastes the README's examples, one after the other."""
    return tmp_path_factory.mktemp("pasted")


def test_the_readme_is_short():
    assert len(README.read_text().split()) <= 900


@pytest.mark.timeout(300)
def test_the_readmes_python_prints_what_it_says(folder):
    block = python_block(README.read_text())
    assert len(block["code"].strip().splitlines()) <= 12
    assert run_python(block["code"], folder) == block["output"]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", range(len(CONSOLE.findall(README.read_text()))))
def test_the_readmes_commands_print_what_it_says(folder, number):
    """The sessions follow the Python example: they work on its files."""
    session = sessions(README.read_text())[number]["session"]
    printed = "".join(f"$ {c}\n{run_command(c, folder)}" for c in commands_of(session))
    assert without_timings(printed) == without_timings(session)


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text().replace("\n", " "))
    for link in (link for link in links if "://" not in link):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.is_file(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link}"


def commands_in(text: str) -> list[tuple[str, str, list[str]]]:
    """(program, command, options) of every line or code span that calls one."""
    found = []
    text = text.replace("\\\n", " ")  # a command over two lines
    for program, rest in re.findall(r"(?<![\w./-])(avprep|avmodel) ((?:[a-z][a-z-]+)(?: [^\n`]*)?)", text):
        words = shlex.split(rest.replace("'", ""), comments=True)
        if words[0] in GROUPS[program].commands:
            found.append((program, words[0], [w for w in words if w.startswith("--")]))
    return found


def options_of(program: str, command: str) -> set[str]:
    group = GROUPS[program]
    context = click.Context(group)
    loaded = group.get_command(context, command)
    loaded = loaded.load() if hasattr(loaded, "load") else loaded
    return {o for p in loaded.params for o in (*p.opts, *p.secondary_opts)} | {"--help"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_option_of_a_command_shown_exists(page):
    for program, command, options in commands_in(page.read_text()):
        unknown = {o.rstrip(".,;:)") for o in options} - options_of(program, command)
        assert not unknown, f"{page.name}: {program} {command} has no {', '.join(sorted(unknown))}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_option_named_alone_is_one_of_some_command(page):
    known = {o for program, group in GROUPS.items() for c in group.commands for o in options_of(program, c)}
    of_other_programs = {"--nproc-per-node", "--real", "--generated", "--version", "--option", "--extra"}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", page.read_text()))
    assert named - known - of_other_programs == set()


PATH = re.compile(r"`((?:avprep|avmodel|tests|docs|pipelines)/[\w./-]+)`")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_named_exists(page):
    for path in PATH.findall(page.read_text()):
        assert (TOP / path).exists(), f"{page.name}: {path}"
