"""Options have the defaults of the dataclasses' fields, and library messages get the options' names."""

from __future__ import annotations

import inspect
from dataclasses import MISSING, fields, make_dataclass

import click
import pytest

import avprep
from avprep.cli import main
from avprep.cli.group import LazyCommand, Refused, with_options
from avprep.cli.options import MEDIA_NAMES, from_options, option
from avprep.datasets.source import DatasetOptions
from avprep.errors import ArgumentError
from avprep.execution import PoolConfig
from avprep.jobs.config import ClipJobConfig, EncodeJobConfig, FromMedia, Growth, PlanOptions, runner_config
from avprep.spec import ClipSpec
from avprep.stages.options import ClipOptions, DecodeOptions, EncodeOptions, InvertOptions

MEDIA = (ClipSpec, DatasetOptions, PlanOptions, ClipOptions, FromMedia)
OWNERS = {
    "clip": (*MEDIA, ClipJobConfig, Growth),
    "encode": (*MEDIA, EncodeOptions, EncodeJobConfig, Growth, PoolConfig),
    "decode": (DecodeOptions,),
    "invert-audio": (InvertOptions,),
}
# Options that are no field's: `stride_s` becomes samples of the spec; the rest says where, or how it runs.
NO_FIELD = {
    "clip": {"stride_s", "missing", "workers", "address", "is_dry_run"},
    "encode": {"stride_s", "missing", "clips", "select", "ckpt", "text_encoder"},
    "decode": {"latents", "select", "ckpt", "out", "compare"},
    "invert-audio": {"out"},
}


def command_of(name: str) -> click.Command:
    command = main.commands[name]
    assert isinstance(command, LazyCommand)
    return command.load()


def defaults_of(owners) -> dict[str, object]:
    return {f.name: f.default for owner in owners for f in fields(owner) if f.default is not MISSING}


@pytest.mark.parametrize("name", OWNERS)
def test_the_default_of_every_option_is_its_fields(name):
    command, defaults = command_of(name), defaults_of(OWNERS[name])
    context = click.Context(command)
    found = {
        p.name: p.get_default(context)
        for p in command.params
        if isinstance(p, click.Option) and p.name not in NO_FIELD[name]
    }
    required = {f.name for owner in OWNERS[name] for f in fields(owner) if f.default is MISSING}
    assert found.keys() <= defaults.keys() | required
    assert {n: v for n, v in found.items() if n not in required} == {
        n: defaults[n] for n in found.keys() - required
    }


@pytest.mark.parametrize("name", OWNERS)
def test_every_option_of_a_stage_or_plan_can_be_given(name):
    jobs = {FromMedia, ClipJobConfig, EncodeJobConfig, PoolConfig}  # these hold other dataclasses, too
    names = {f.name for owner in set(OWNERS[name]) - jobs for f in fields(owner)}
    assert names - {p.name for p in command_of(name).params} <= {"spec", "stride_samples"}


@pytest.mark.parametrize(
    ("function", "owners"),
    [
        (avprep.clip_dataset, (*MEDIA, ClipJobConfig)),
        (avprep.encode_dataset, (EncodeOptions, EncodeJobConfig, PoolConfig)),
    ],
)
def test_the_defaults_of_the_functions_are_the_fields(function, owners):
    defaults = defaults_of(owners)
    found = {n: p.default for n, p in inspect.signature(function).parameters.items() if n in defaults}
    assert found == {name: defaults[name] for name in found} and len(found) >= 5


def test_the_media_options_are_those_of_both_commands():
    for name in ("clip", "encode"):
        assert {p.name for p in command_of(name).params} >= MEDIA_NAMES
    assert {"dataset", "root", "fps", "stride_s", "list_file", "source_timeout_s"} <= MEDIA_NAMES
    assert not MEDIA_NAMES & {"out", "workers", "rebuild"}


def test_workers_are_one_per_cpu_or_all_of_the_cluster(monkeypatch):
    monkeypatch.setattr("avprep.jobs.config.available_cpus", lambda: 7)
    assert runner_config(None, None).workers == 7
    assert runner_config(None, "head:6379").workers == 0
    with pytest.raises(ArgumentError, match="^workers must be a whole number, at least 0, not -1"):
        runner_config(-1, None)


def test_a_dataclass_is_made_of_the_options_that_have_its_fields_names():
    given = {"limit": 3, "shard_size": 5, "elsewhere": 1}
    assert from_options(PlanOptions, given, shard_size=6) == PlanOptions(limit=3, shard_size=6)


# --- messages ----------------------------------------------------------------------------------------------

_Fields = make_dataclass("_Fields", [("source_timeout_s", float, 600.0), ("rebuild", bool, False)])


@click.command()
@option(_Fields, "source_timeout_s", "--source-timeout")
@option(_Fields, "rebuild", "--rebuild", is_flag=True)
@click.option("--list", "list_file")
@click.option("--out")
@click.argument("place")
def made(**options) -> None:
    """A command with options that are named otherwise than their arguments."""


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("source_timeout_s must be above 0, not 0", "--source-timeout must be above 0, not 0"),
        ("list_file needs a value", "--list needs a value"),
        ("out = /a b: it holds latents", "--out /a b: it holds latents"),
        ("rebuild = True: nothing is there", "--rebuild: nothing is there"),
        ("out = True story: a folder", "--out True story: a folder"),
        (
            "give another folder, or rebuild=True to start over",
            "give another folder, or --rebuild to start over",
        ),
        ("one given by list_file=FILE, and", "one given by --list FILE, and"),
        ("follow_links=True enters them", "follow_links=True enters them"),  # no option of this command
        ("/data/rebuild=True/x: damaged", "/data/rebuild=True/x: damaged"),  # a path
        ("rebuild the house", "rebuild the house"),
        ("place = here: an argument, not an option", "place = here: an argument, not an option"),
        ("options.rebuild=True", "options.rebuild=True"),
    ],
)
def test_arguments_get_the_names_of_the_options(message, expected):
    assert with_options(message, made) == expected
    with click.Context(made):
        assert Refused(message).message == expected


def test_without_a_command_a_message_stays():
    assert with_options("out = /a: it holds latents") == "out = /a: it holds latents"
