"""setup.cfg, constraints.txt and the Makefile agree with each other, and with what the code asks for."""

from __future__ import annotations

import ast
import configparser
import re
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

TOP = Path(__file__).parents[1]
MODULES = sorted(p for name in ("avprep", "avmodel", "pipelines") for p in (TOP / name).rglob("*.py"))


def _requirements(text: str) -> list[Requirement]:
    return [Requirement(line) for line in text.splitlines() if line and not line.startswith("#")]


@pytest.fixture(scope="module")
def config() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(TOP / "setup.cfg")
    return parser


@pytest.fixture(scope="module")
def pins() -> dict[str, str]:
    lines = _requirements((TOP / "constraints.txt").read_text())
    return {canonicalize_name(line.name): str(line.specifier).removeprefix("==") for line in lines}


def test_every_requirement_is_pinned_to_a_version_that_it_allows(config, pins):
    required = _requirements(config["options"]["install_requires"])
    for text in config["options.extras_require"].values():
        required += _requirements(text)
    for requirement in required:
        pin = pins[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(pin), f"{requirement} does not allow {pin}"


def test_releases_known_to_be_bad_are_left_out(config):
    allowed = {r.name: r.specifier for r in _requirements(config["options"]["install_requires"])}
    bad = {"av": ("16.0.1", "17.0.1", "17.1.0", "19.0.0"), "pyarrow": ("19.0.0", "25.0.0")}
    for name, versions in bad.items():
        assert not [v for v in versions if allowed[name].contains(v)], name


def test_every_library_that_is_imported_is_required(config):
    """By some extra at least; 'test' alone does not count."""
    required = _requirements(config["options"]["install_requires"])
    for extra, text in config["options.extras_require"].items():
        required += _requirements(text) if extra != "test" else []
    names = {canonicalize_name(r.name) for r in required} | {"avprep"}
    by_module = packages_distributions()
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                roots = {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                roots = {(node.module or "").split(".")[0]}
            else:
                continue
            for root in roots & by_module.keys() - {"avmodel", "pipelines"}:
                owners = {canonicalize_name(owner) for owner in by_module[root]}
                assert owners & names, f"{path.relative_to(TOP)} imports {root}"


def test_every_extra_that_a_message_names_exists(config):
    extras = set(config["options.extras_require"])
    for path in MODULES:
        text = path.read_text()
        named = set(re.findall(r"avprep\[([a-z,]+)\]", text)) | set(re.findall(r"\bextra=\"(\w+)\"", text))
        assert named <= extras, f"{path.relative_to(TOP)}: {', '.join(sorted(named - extras))}"


def test_the_makefile_describes_every_target():
    text = (TOP / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", text, re.MULTILINE))
    described = set(re.findall(r"^([a-z-]+):.*## \w", text, re.MULTILINE))
    phony = set(re.search(r"\.PHONY: ((?:.*\\\n)*.*)", text).group(1).replace("\\\n", " ").split())
    assert targets == described == phony
