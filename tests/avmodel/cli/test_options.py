"""Options and the dataclasses that hold their defaults; option names in the library's errors."""

from __future__ import annotations

import ast
import re
from dataclasses import MISSING, fields
from importlib import import_module
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import avmodel
from avmodel.ablate.options import AblationOptions
from avmodel.cli import COMMANDS, main
from avmodel.config import MDSAConfig, STDiTConfig
from avmodel.dit.options import DiTTrainingOptions, SampleOptions
from avmodel.mdsa.options import LossWeights, LPIPSConfig, MDSATrainingOptions, ReconstructOptions
from avprep.cli.group import with_options

SOURCES = {
    "train-mdsa": (MDSATrainingOptions, LPIPSConfig, MDSAConfig),
    "train-dit": (DiTTrainingOptions, STDiTConfig),
    "sample": (SampleOptions,),
    "reconstruct": (ReconstructOptions,),
    "ablate": (AblationOptions,),
}
OF_THE_COMMAND = {"help", "preset", "export"}


def defaults_of(command: str) -> dict[str, object]:
    found = {f.name: f.default for source in reversed(SOURCES[command]) for f in fields(source)}
    if command == "train-mdsa":
        found |= {f"{f.name}_weight": f.default for f in fields(LossWeights)}
    return found


@pytest.mark.parametrize("command", SOURCES)
def test_every_default_is_the_fields(command):
    defaults, context = defaults_of(command), click.Context(main)
    parameters = [p for p in main.commands[command].load().params if p.name not in OF_THE_COMMAND]
    assert len(parameters) > 5
    for parameter in parameters:
        expected = defaults[parameter.name]
        assert parameter.required == (expected is MISSING), parameter.name
        if expected is not MISSING:
            assert parameter.get_default(context) == expected or parameter.multiple, parameter.name


@pytest.mark.parametrize("command", SOURCES)
def test_every_field_of_a_command_is_an_option_of_it(command):
    names = {parameter.name for parameter in main.commands[command].load().params}
    assert {f.name for f in fields(SOURCES[command][0])} - names <= {"model", "loss", "lpips", "shares"}


@pytest.mark.parametrize(
    ("module", "model"), [("train_mdsa", MDSAConfig), ("train_dit", STDiTConfig)], ids=["mdsa", "dit"]
)
def test_every_option_of_the_model_is_known_to_be_one(module, model):
    """Else an option that was not typed would not take the value of the training that goes on."""
    of_model = {f.name for f in fields(model)} - {"heads"}  # that option is LPIPS's
    found = import_module(f"avmodel.cli.{module}")
    command = main.commands[module.replace("_", "-")].load()
    options = {p.name for p in command.params} & of_model
    assert {name for name, path in found._NESTED.items() if path == f"model.{name}"} == options


PARAMETERS = [
    click.Option(["--batch-size"]),
    click.Option(["--label", "labels"]),
    click.Option(["--compile/--no-compile"]),
    click.Option(["--n"]),
]


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("batch_size must be above 0, not -1", "--batch-size must be above 0, not -1"),
        ("labels = cat: unknown; give `batch_size`", "--label cat: unknown; give --batch-size"),
        ("/a/n = 3: n must be there", "/a/n = 3: n must be there"),
        ("out = x: `other` and `compile`", "out = x: `other` and --compile"),
        ("n is below batch_size", "n is below batch_size"),  # names are marked where they are names
    ],
)
def test_arguments_are_named_as_the_commands_options(message, expected):
    assert with_options(message, click.Command("made", params=PARAMETERS)) == expected


def test_an_error_of_the_library_names_the_option(tmp_path):
    arguments = [
        "train-mdsa",
        "--clips",
        str(tmp_path),
        "--out",
        str(tmp_path / "out"),
        "--stage1-steps",
        "0",
    ]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 2
    assert "Error: --stage1-steps 0 and --stage2-steps 0: nothing is trained" in done.output


def strings_of(path: Path) -> list[str]:
    return [node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)]


TOP = Path(avmodel.__file__).parent
MODULES = sorted(p for p in TOP.rglob("*.py") if p.relative_to(TOP).parts[0] != "cli")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(TOP)))
def test_the_library_speaks_of_arguments_and_not_of_options(path):
    found = [text for text in strings_of(path) if isinstance(text, str) and re.search(r"--[a-z]", text)]
    assert not found


def test_the_commands_are_those_whose_defaults_are_compared():
    """Not those of evaluate, of which --reference is required for some tables and not for others."""
    assert {*SOURCES, "info", "evaluate"} == COMMANDS.keys()
    assert import_module("avmodel.cli.info").info.params[0].get_default(click.Context(main)) == "paper"
