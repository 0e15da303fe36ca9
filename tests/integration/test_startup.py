"""Start-up of both command lines: what is imported by when, and the group that imports commands late."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from importlib import import_module
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

import avmodel.cli
import avprep.cli
import avprep.shards.ledger
from avprep.cli.group import ErrorReportingGroup, LazyCommand
from avprep.shards.layout import ShardError
from avprep.shards.ledger import LedgerRow, ShardRecord, write_ledger
from avprep.shards.plan import PlanRow, write_plan
from avprep.shards.store import LocalStore
from avprep.spec import ClipSpec
from avprep.stages.clip_input import ClipShardDamaged

TOP = Path(__file__).parents[2]
HEAVY = ("torch", "torchaudio", "ray", "av", "librosa", "pyarrow.dataset", "scipy", "tensorboard", "numba")
COMMANDS = [(package, name) for package in (avprep.cli, avmodel.cli) for name in package.COMMANDS]
NAMES = [f"{package.__name__}:{name}" for package, name in COMMANDS]

# Runs steps one after the other in one process. Prints, for each, what it printed and the heavy modules that
# are there after it.
_STEPS = """
import contextlib, io, json, sys
from importlib import import_module
heavy, steps = json.loads(sys.argv[1])
found = []
for module, *args in steps:
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        main = getattr(import_module(module), "main", None)
        if args:
            main(args, module.split(".")[0], standalone_mode=False)
    found.append((said.getvalue(), [name for name in heavy if name in sys.modules]))
print(json.dumps(found))
"""


def run_steps(heavy: tuple[str, ...], steps: list[tuple[str, ...]]) -> list[tuple[str, list[str]]]:
    """(what was printed, heavy modules that are there) after each step, all in one new process."""
    command = [sys.executable, "-c", _STEPS, json.dumps([heavy, steps])]
    done = subprocess.run(command, cwd=TOP, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_neither_an_import_nor_any_help_loads_a_heavy_library():
    helps = [(package.__name__, name, "--help") for package, name in COMMANDS]
    steps = [
        ("avprep",),
        ("avprep.cli",),
        ("avprep.cli", "--help"),
        ("avmodel.cli",),
        ("avmodel.cli", "--help"),
        *helps,
    ]
    found = run_steps((*HEAVY, "pyarrow", "numpy", "PIL"), steps)
    assert {step: loaded for step, (_, loaded) in zip(steps, found, strict=True) if loaded} == {}
    for (package, name, _), (said, _) in zip(helps, found[-len(helps) :], strict=True):
        assert said.startswith(f"Usage: {package.split('.')[0]} {name} [OPTIONS]"), said
        assert "--help" in said


def test_the_heavy_libraries_are_found_where_they_are_loaded():
    """What the test above looks for would be seen: the names are right."""
    found = run_steps(HEAVY, [("avprep.cli.run_encode",), ("scipy.sparse",), ("avprep.media.probe",)])
    assert found[0][1][:1] == ["torch"]
    assert {"torch", "scipy", "av"} <= set(found[2][1])


def test_the_parent_of_a_clip_job_and_status_load_neither_torch_nor_ray(clip_root, tmp_path):
    """With `--workers 0` the work is the child's; a second run has nothing to do."""
    clip = (
        "avprep.cli",
        "clip",
        "--dataset",
        "folder",
        "--root",
        str(clip_root),
        "--limit",
        "1",
        "--size",
        "16",
        "--out",
        str(tmp_path / "clips"),
        "--workers",
        "0",
    )
    first, second, status = run_steps(HEAVY, [clip, clip, ("avprep.cli", "status", str(tmp_path / "clips"))])
    assert "made 1 of 1 shards" in first[0] and "1 planned = 1 written" in first[0]
    assert "nothing to do: all 1 shards are there" in second[0]
    assert "1 of 1 shards, 1 of 1 clips" in status[0]
    assert not {"torch", "ray", "pyarrow.dataset", "scipy", "numba"} & set(status[1])


# --- the group -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("package", "name"), COMMANDS, ids=NAMES)
def test_a_commands_line_of_help_is_its_own(package, name):
    lazy = package.main.commands[name]
    command = lazy.load()
    assert isinstance(lazy, LazyCommand) and not isinstance(command, LazyCommand)
    assert command.name == name
    for width in (30, 60, 90, 200):
        assert lazy.get_short_help_str(width) == command.get_short_help_str(width)


@pytest.mark.parametrize("package", [avprep.cli, avmodel.cli], ids=["avprep", "avmodel"])
def test_help_lists_every_command(package):
    said = CliRunner().invoke(package.main, ["--help"], terminal_width=200).output
    listed = said.split("Commands:\n")[1].splitlines()
    assert [line.split()[0] for line in listed] == sorted(package.COMMANDS)
    assert all(package.COMMANDS[line.split()[0]][0].rstrip(".")[:40] in line for line in listed)


REFUSALS = sorted({*avprep.cli.REFUSALS, *avmodel.cli.REFUSALS})


@pytest.mark.parametrize("name", REFUSALS)
def test_what_the_group_reports_by_name_is_an_error_of_that_name(name):
    module, _, kind = name.rpartition(".")
    error = getattr(import_module(module), kind)
    assert issubclass(error, Exception)
    assert f"{error.__module__}.{error.__qualname__}" == name


def _group_whose_command_raises(error: BaseException) -> ErrorReportingGroup:
    group = ErrorReportingGroup("made", lazy={}, refusals=avprep.cli.REFUSALS)

    @group.command()
    def fail() -> None:
        raise error

    return group


@pytest.mark.parametrize(
    ("error", "exit_code", "said"),
    [
        (ShardError("no spec.json"), 2, "Error: no spec.json\n"),
        (ClipShardDamaged("its tar is cut off"), 2, "Error: its tar is cut off\n"),
        (PermissionError(13, "Permission denied", "/x"), 1, "Error: /x: Permission denied\n"),
        (KeyboardInterrupt(), 130, "Stopped.\n"),
        (click.UsageError("no such thing"), 2, "no such thing"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_an_error_for_the_person_is_a_message_and_an_exit_code(error, exit_code, said):
    result = CliRunner().invoke(_group_whose_command_raises(error), ["fail"])
    assert result.exit_code == exit_code
    assert said in result.stderr


def test_a_fault_of_the_program_is_not_dressed_up_as_a_refusal():
    error = ValueError("a fault of the program")  # the base class of ShardError
    result = CliRunner().invoke(_group_whose_command_raises(error), ["fail"])
    assert result.exception is error
    assert "a fault of the program" not in result.stderr


def test_a_closed_pipe_is_clicks_to_end():
    result = CliRunner().invoke(_group_whose_command_raises(BrokenPipeError(32, "Broken pipe")), ["fail"])
    assert result.exit_code == 1
    assert not result.stderr


def test_a_mistyped_command_is_answered_with_the_nearest():
    result = CliRunner().invoke(avprep.cli.main, ["stauts"])
    assert result.exit_code == 2
    assert "status" in result.stderr


def test_the_shell_completes_commands_and_their_options():
    shell = ShellComplete(avprep.cli.main, {}, "avprep", "_AVPREP_COMPLETE")
    assert [item.value for item in shell.get_completions([], "s")] == ["score", "select", "status", "synth"]
    assert [item.value for item in shell.get_completions(["clip"], "--cro")] == ["--crop"]


# --- status ----------------------------------------------------------------------------------------------


def _finished_output(root: Path, outcomes: list[list[tuple[str, str]]]) -> LocalStore:
    """An output of one shard for each list of (status, reason), without its tars."""
    store = LocalStore(str(root))
    rows = [
        [
            LedgerRow(
                key=f"{shard:02d}{i:02d}",
                shard=shard,
                source=f"{shard}/{i}.mp4",
                start_s=1.6 * i,
                status=status,
                reason=reason,
                detail=f"what is wrong with {i}",
            )
            for i, (status, reason) in enumerate(ledger)
        ]
        for shard, ledger in enumerate(outcomes)
    ]
    write_plan(
        store,
        (
            [
                PlanRow(key=row.key, shard=row.shard, source=row.source, start=0, labels=(), caption="")
                for row in ledger
            ]
            for ledger in rows
        ),
    )
    for shard, ledger in enumerate(rows):
        write_ledger(store, shard, ledger, ShardRecord("", "", 0, "made"))
    with store.write("spec.json") as file:
        file.write(json.dumps({"fingerprint": "made", "spec": ClipSpec().to_dict()}).encode())
    return store


WRITTEN, SILENT = ("written", ""), ("filtered", "silent")
CORRUPT, TRUNCATED, MISSING = ("failed", "corrupt"), ("failed", "truncated"), ("failed", "missing")
OUTCOMES = [
    [WRITTEN] * 5 + [SILENT],
    [CORRUPT, WRITTEN, CORRUPT],
    [WRITTEN, SILENT],
    [CORRUPT, CORRUPT, TRUNCATED, CORRUPT],
    [CORRUPT, WRITTEN, CORRUPT],
    [TRUNCATED, CORRUPT],
    [MISSING, MISSING, MISSING],
    [MISSING],  # the fourth alone: it says that there are more
]


def _told_failures(all_of_them: bool) -> list[str]:
    """The lines that status prints of OUTCOMES, counted here."""
    lines, seen = [], Counter()
    for shard, ledger in enumerate(OUTCOMES):
        for i, (status, reason) in enumerate(ledger):
            if status != "failed":
                continue
            seen[reason] += 1
            if all_of_them or seen[reason] <= 3:
                lines.append(f"failed {shard}/{i}.mp4 at {1.6 * i:.3f} s, {reason}: what is wrong with {i}")
            elif seen[reason] == 4:
                lines.append(f"... more of {reason}")
    return lines


@pytest.mark.parametrize("all_of_them", [False, True])
def test_status_tells_sums_and_the_first_failures_of_each_reason(tmp_path, monkeypatch, all_of_them):
    read: list[int] = []
    whole = avprep.shards.ledger.read_ledger

    def counted(store, index):
        read.append(index)
        return whole(store, index)

    monkeypatch.setattr(avprep.shards.ledger, "read_ledger", counted)
    store = _finished_output(tmp_path, OUTCOMES)
    said = CliRunner().invoke(avprep.cli.main, ["status", store.uri, *["--all"] * all_of_them]).output
    assert "8 of 8 shards, 24 of 24 clips\n24 planned = 8 written, 2 filtered, 14 failed\n" in said
    assert "8 corrupt: " in said and "2 truncated: " in said and "2 silent: " in said
    told = [
        line.strip().split(": avprep")[0]
        for line in said.splitlines()
        if line.startswith("  failed ") or line.startswith("  ... ")
    ]
    assert told == _told_failures(all_of_them)
    assert "--try 0100\n" in said
    # Whole rows are read only where some are shown: not of shard 4, whose reason has been told often enough.
    assert read == ([1, 3, 4, 5, 6, 7] if all_of_them else [1, 3, 5, 6, 7])
