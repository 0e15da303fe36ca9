"""The recipes: every command that they run is one that the command lines take."""

from __future__ import annotations

import runpy
import shlex
import sys

import pytest

import avmodel.cli
import avprep.cli
import pipelines.steps

PACKAGES = {"avprep": avprep.cli, "avmodel": avmodel.cli}


def steps_of(recipe: str, monkeypatch) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    monkeypatch.setattr(pipelines.steps, "run", lambda steps: found.extend(steps) or 0)
    monkeypatch.delitem(sys.modules, "pipelines.paper", raising=False)  # it has imported the real one
    monkeypatch.setattr(sys, "argv", [recipe, "OUT"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(f"pipelines.{recipe}", run_name="__main__")
    assert ended.value.code == 0
    return found


@pytest.mark.parametrize("recipe", ["aist", "audioset", "landscape", "demo", "generate"])
def test_every_step_is_a_command_that_parses(recipe, monkeypatch):
    steps = steps_of(recipe, monkeypatch)
    assert len(steps) >= 5 and all(title for title, _ in steps)
    for _, command in steps:
        package, name, *arguments = shlex.split(command)
        loaded = PACKAGES[package].main.commands[name].load()
        assert loaded.make_context(name, list(arguments)).params


def test_the_papers_recipe_differs_by_dataset_alone(monkeypatch):
    commands = {}
    for recipe in ("aist", "landscape"):
        commands[recipe] = [command for _, command in steps_of(recipe, monkeypatch)]
    aist = [c.replace("--dataset aist", "--dataset landscape") for c in commands["aist"]]
    aist = [c.replace("--label 'break dance'", "--label raining") for c in aist]
    assert aist == commands["landscape"]
    assert "--split train" in aist[0] and "--stage1-steps 80000 --stage2-steps 20000" in aist[2]


def test_audioset_trains_on_the_clips_that_it_chose(monkeypatch):
    from avprep.jobs.query import parse_query
    from avprep.scores.catalogue import COLUMNS
    from avprep.shards.plan import SCHEMA

    commands = [shlex.split(command) for _, command in steps_of("audioset", monkeypatch)]
    by_name = {command[1]: command for command in commands}
    query, select = by_name["select"][3], by_name["select"]
    assert {term.column for term in parse_query(query)} <= {column.name for column in COLUMNS} | set(
        SCHEMA.names
    )
    for name in ("train-mdsa", "encode"):
        command = by_name[name]
        assert command[command.index("--select") + 1] == select[select.index("--name") + 1]
    assert "--missing" in by_name["clip"] and "OUT/missing.tsv" in by_name["clip"]


def test_a_recipe_without_a_folder_says_how_it_is_called(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["aist"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("pipelines.aist", run_name="__main__")
    assert ended.value.code == 2 and "usage: python -m pipelines.aist OUT" in capsys.readouterr().err
