"""Runs as processes, faults that hit them, and comparison of what they leave: for bench_faults."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch

from avprep.shards.ledger import read_ledgers
from avprep.shards.store import open_store

TOP = Path(__file__).parents[2]
LIMIT_S = 600.0  # of one run; a hang is a fault of the program
# Files whose content depends on the time or on the process.
_NOT_COMPARED = ("stats.json", ".lock")
# The clock of a Python process goes back by an hour, `FAULTS_CLOCK_S` seconds after its start.
CLOCK = """
import os, time
_began, _time, _after = time.monotonic(), time.time, float(os.environ["FAULTS_CLOCK_S"])
time.time = lambda: _time() - 3600 * (time.monotonic() - _began > _after)
"""


@dataclass(frozen=True)
class Command:
    """A command that writes an output, and how two of them are compared."""

    name: str
    module: str
    arguments: str  # with {out}, {root} (the undisturbed outputs) and {workers}
    is_training: bool = False
    copies: str | None = None  # the undisturbed output that it adds files to


# --- one run ------------------------------------------------------------------------------


class Run:
    """The command in a session of its own, so that all of its processes can be found and ended.

    Args:
        log: what it prints.
        clock: the folder with the module that turns its clock back after `clock_s` seconds; None: no such.
    """

    def __init__(
        self, module: str, arguments: list[str], *, log: Path, clock: Path | None, clock_s: float
    ) -> None:
        environment = os.environ | {"PYTHONPATH": str(TOP), "OMP_NUM_THREADS": "1"}
        if clock is not None:
            environment |= {"PYTHONPATH": f"{clock}{os.pathsep}{TOP}", "FAULTS_CLOCK_S": str(clock_s)}
        self._log = open(log, "wb")
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            env=environment,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.began = time.monotonic()

    def wait(self, seconds: float) -> int | None:
        """The exit code; None where it goes on after that time."""
        try:
            return self.process.wait(max(0.0, seconds))
        except subprocess.TimeoutExpired:
            return None

    def finish(self) -> int:
        """The exit code. What is left of its processes afterwards is ended."""
        code = self.wait(LIMIT_S)
        self.end()
        if code is None:
            raise TimeoutError(f"the run hangs: {self.process.args}")
        return code

    def end(self) -> None:
        for process in descendants(self.process.pid):
            _signal(process, signal.SIGKILL)
        _signal(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._log.close()


def descendants(process: int) -> list[int]:
    """The processes that descend from one, or are of its session; not itself."""
    parents, found = {}, {process}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(") ")[2].split()
        except OSError:
            continue
        parents[int(entry.name)] = (int(fields[1]), int(fields[3]))
    while (
        more := {p for p, (parent, session) in parents.items() if parent in found or session == process}
        - found
    ):
        found |= more
    return sorted(found - {process})


def _signal(process: int, number: int) -> None:
    try:
        os.kill(process, number)
    except ProcessLookupError:
        return


# --- the faults ------------------------------------------------------------------------------


def kill(run: Run, out: Path, rng: Random) -> str:
    below = descendants(run.process.pid)
    hit = rng.choice([run.process.pid, *below[-4:]]) if below else run.process.pid
    _signal(hit, signal.SIGKILL)
    return "kill driver" if hit == run.process.pid else "kill worker"


def stop(run: Run, out: Path, rng: Random) -> str:
    below = descendants(run.process.pid)
    hit = rng.choice(below) if below else run.process.pid
    _signal(hit, signal.SIGSTOP)
    time.sleep(rng.uniform(0.5, 3))
    _signal(hit, signal.SIGCONT)
    return "stop worker" if below else "stop driver"


def vanish(run: Run, out: Path, rng: Random) -> str:
    if not out.exists():
        return "vanish before it is there"
    elsewhere = out.with_name("elsewhere")
    out.rename(elsewhere)
    time.sleep(1)
    if out.exists():  # begun anew meanwhile, which no run may do behind its start
        shutil.rmtree(out)
    elsewhere.rename(out)
    return "vanish"


def turn_clock(run: Run, out: Path, rng: Random) -> str:
    """The run does it itself: see `_CLOCK`."""
    return "clock"


HITS: dict[str, Callable[[Run, Path, Random], str]] = {
    "kill": kill, "stop": stop, "vanish": vanish, "clock": turn_clock,
}  # fmt: skip


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """A file system of that many bytes. Needs the right to mount."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


# --- comparison ------------------------------------------------------------------------------


def contents(command: Command, out: Path) -> dict[str, str]:
    """What has to be equal, by name."""
    if command.is_training:
        return _training(out)
    found = {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name not in _NOT_COMPARED
    }
    if (out / "ledger").exists():
        keys = Counter(row.key for _, rows, _ in read_ledgers(open_store(out)) for row in rows)
        found["keys"] = f"{len(keys)} clips, {sum(n > 1 for n in keys.values())} of them doubled"
    return found


def _training(out: Path) -> dict[str, str]:
    """What was measured on held-out clips, and the tensors of the exported models."""
    found = {}
    for line in (out / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        found |= {
            f"{name} of step {row['step']}": repr(value) for name, value in row.items() if _decides(name)
        }
    for path in (path for path in out.glob("*.pt") if path.name != "state.pt"):
        digest = hashlib.sha256()
        for name, tensor in _tensors(torch.load(path, map_location="cpu", weights_only=True)):
            digest.update(name.encode() + tensor.numpy().tobytes())
        found[path.name] = digest.hexdigest()
    return found


def _decides(column: str) -> bool:
    """Whether a column of the log is of the training alone. Means over the steps since the last line are not:
    after a resume they cover the steps since then."""
    return column.startswith(("held_out/", "saturated/"))


def _tensors(payload: object, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(payload, torch.Tensor):
        yield name, payload
    elif isinstance(payload, dict):
        for key in sorted(payload, key=str):
            yield from _tensors(payload[key], f"{name}/{key}")


def difference(expected: dict[str, str], found: dict[str, str]) -> str:
    """'' where they are equal; else the first names that are not."""
    names = sorted(expected.keys() | found.keys())
    differing = [name for name in names if expected.get(name) != found.get(name)]
    return f"{len(differing)} differ: {', '.join(differing[:20])}" if differing else ""
