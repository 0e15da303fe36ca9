"""Faults at random moments over every command that writes: is the output as ever afterwards?

    python -m tests.bench.bench_faults OUT [--moments 100] [--disks 20] [--workers 1] [--only clip ...]

For each command, OUT/undisturbed holds what a run gives that nothing disturbs. Then its output is disturbed
at `--moments` random moments by one fault after the other:

    kill      SIGKILL for the driver, or for one of its workers or loaders
    stop      SIGSTOP of a worker or loader for some seconds
    clock     the clock goes back by an hour in mid-run
    vanish    the output is moved away for a second and comes back
    disk      `--disks` times: the output lies on a file system that is full after a random number of bytes

After each fault the same command is run again, to be disturbed again. A run that reaches its end is compared
with the undisturbed one, and the next begins an output anew. At last the command is run to its end. Compared
are all files of an output but its timings;
of a training, what it measured on held-out clips and its tensors. Every
outcome is a line in OUT/outcomes.jsonl: run again, the benchmark goes on where it stopped. The exit code is 1
where anything differs.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

import click

from tests.avprep.media.flash_click import write_flash_click
from tests.bench.faults import CLOCK, HITS, Command, Run, contents, difference, small_disk

FAULTS = ("kill", "kill", "kill", "stop", "clock", "vanish")  # as often as each is drawn
SPEC = "--frames 4 --size 16 --n-mels 16 --n-fft 256"
_CPU = "--device cpu"
_STEPS = f"--checkpoint-every 2 --eval-every 6 --loader-workers 1 {_CPU}"
COMMANDS = (
    Command(
        "clip",
        "avprep",
        "clip --dataset folder --root {root}/media --out {out} --shard-size 4 --workers {workers} " + SPEC,
    ),
    Command(
        "train-mdsa",
        "avmodel",
        "train-mdsa --preset tiny --clips {root}/clip --out {out} --stage1-steps 12 --lpips none " + _STEPS,
        is_training=True,
    ),
    Command(
        "encode",
        "avprep",
        "encode --clips {root}/clip --ckpt {root}/train-mdsa/mdsa.pt --out {out} --batch-size 4 "
        "--workers {workers} " + _CPU,
    ),
    Command(
        "train-dit",
        "avmodel",
        "train-dit --preset tiny --latents {root}/encode --out {out} --steps 12 --batch-size 8 " + _STEPS,
        is_training=True,
    ),
    Command(
        "sample",
        "avmodel",
        "sample --dit {root}/train-dit/dit.pt --mdsa {root}/train-mdsa/mdsa.pt --out {out} --n 6 --steps 2 "
        "--batch-size 2 " + _CPU,
    ),
    Command(
        "decode",
        "avprep",
        "decode --latents {root}/encode --ckpt {root}/train-mdsa/mdsa.pt --out {out} --limit 12 " + _CPU,
    ),
    Command("score", "avprep", "score {out} --only loudness --workers {workers}", copies="clip"),
)


@dataclass(frozen=True)
class Outcome:
    """What became of one disturbed run."""

    command: str
    moment: int
    fault: str  # with who was hit
    exit_code: int  # negative: ended by that signal
    seconds: float
    is_hit: bool  # the fault came before the end
    difference: str = ""  # to the undisturbed run, where this one reached its end


# --- the campaign ------------------------------------------------------------------------------


class Place:
    """The folders of the benchmark and the outcomes so far."""

    def __init__(self, out: Path) -> None:
        self.out, self.undisturbed, self.clock = out, out / "undisturbed", out / "clock"
        self.clock.mkdir(parents=True, exist_ok=True)
        self.undisturbed.mkdir(exist_ok=True)
        (self.clock / "sitecustomize.py").write_text(CLOCK)
        self._lines = out / "outcomes.jsonl"

    def outcomes(self) -> list[Outcome]:
        if not self._lines.exists():
            return []
        return [Outcome(**json.loads(line)) for line in self._lines.read_text().splitlines()]

    def add(self, outcome: Outcome) -> None:
        with open(self._lines, "a") as file:
            file.write(json.dumps(asdict(outcome)) + "\n")
        found = outcome.difference or ("" if outcome.is_hit else "at its end")
        click.echo(
            f"{outcome.command:<11}{outcome.moment:>4}  {outcome.fault:<26}exit {outcome.exit_code:>4}  "
            f"{outcome.seconds:6.1f} s  {found}"
        )


class Campaign:
    """The faults of one command, one after the other, on one output until it is whole."""

    def __init__(self, command: Command, place: Place, workers: int) -> None:
        self.command, self.place, self.workers = command, place, workers
        self.out = place.out / "disturbed" / command.name
        self.seconds = self._undisturbed()
        self.expected = contents(command, place.undisturbed / command.name)

    def _undisturbed(self) -> float:
        """Makes the undisturbed output, once. Returns the seconds that it took."""
        out, took = (
            self.place.undisturbed / self.command.name,
            self.place.out / f"{self.command.name}.seconds",
        )
        if not took.exists():
            shutil.rmtree(out, ignore_errors=True)
            self._begin(out)
            run = self._run(out)
            if (code := run.finish()) != 0:
                raise RuntimeError(f"{self.command.name} ends with {code}, undisturbed: see last.log")
            took.write_text(str(time.monotonic() - run.began))
        return float(took.read_text())

    def _run(self, out: Path, clock_s: float | None = None) -> Run:
        given = self.command.arguments.format(out=out, root=self.place.undisturbed, workers=self.workers)
        clock = None if clock_s is None else self.place.clock
        log = self.place.out / "last.log"
        return Run(self.command.module, given.split(), log=log, clock=clock, clock_s=clock_s or 0.0)

    def _begin(self, out: Path) -> None:
        """What is there before the first run."""
        out.parent.mkdir(parents=True, exist_ok=True)
        if self.command.copies is not None and not out.exists():
            shutil.copytree(self.place.undisturbed / self.command.copies, out)

    def disturb(self, moment: int) -> Outcome:
        rng = Random(f"{self.command.name} {moment}")
        fault = rng.choice(FAULTS)
        after_s = rng.uniform(0.1, 1.0) * self.seconds
        self._begin(self.out)
        run = self._run(self.out, after_s if fault == "clock" else None)
        code = run.wait(after_s)
        is_hit, what = code is None, fault
        if code is None:
            what = HITS[fault](run, self.out, rng)
        code = run.finish() if code is None else code
        run.end()
        return self._outcome(moment, what, code, run, is_hit)

    def fill_disk(self, moment: int) -> Outcome:
        """On a disk that is full after a random number of bytes; then on one with room."""
        rng = Random(f"{self.command.name} disk {moment}")
        there = _pages(self.place.undisturbed / self.command.copies) if self.command.copies else 8
        least, most = there, max(there, _pages(self.place.undisturbed / self.command.name))
        with small_disk(self.place.out / "disk", 4096 * rng.randint(least, most)) as disk:
            self._begin(disk / "out")
            run = self._run(disk / "out")
            code = run.finish()
            subprocess.run(["mount", "-o", "remount,size=1g", disk], check=True)
            again = self._run(disk / "out")
            if again.finish() != 0:
                return Outcome(self.command.name, moment, "disk full", code, 0.0, True, "does not go on")
            found = difference(self.expected, contents(self.command, disk / "out"))
        return Outcome(
            self.command.name, moment, "disk full", code, time.monotonic() - run.began, code != 0, found
        )

    def end(self) -> Outcome | None:
        """Runs the command to its end, if it is not there yet."""
        if not self.out.exists():
            return None
        run = self._run(self.out)
        return self._outcome(-1, "none", run.finish(), run, False)

    def _outcome(self, moment: int, fault: str, code: int, run: Run, is_hit: bool) -> Outcome:
        found = ""
        if code == 0:  # the next run begins anew
            found = difference(self.expected, contents(self.command, self.out))
            shutil.rmtree(self.out)
        elif fault == "none":
            found = "does not go on: see last.log"
        seconds = time.monotonic() - run.began
        return Outcome(self.command.name, moment, fault, code, seconds, is_hit, found)


def write_media(folder: Path) -> None:
    """Twelve sources of eight clips each."""
    if folder.exists():
        return
    folder.mkdir(parents=True)
    write_flash_click(folder / "00.mp4", seconds=3.4)
    for i in range(1, 12):
        shutil.copy(folder / "00.mp4", folder / f"{i:02d}.mp4")


def report(outcomes: list[Outcome]) -> int:
    """Prints the counts. Returns how many runs differed."""
    for command in dict.fromkeys(outcome.command for outcome in outcomes):
        own = [outcome for outcome in outcomes if outcome.command == command]
        faults = Counter(outcome.fault for outcome in own if outcome.is_hit)
        whole = sum(outcome.exit_code == 0 for outcome in own)
        differing = sum(bool(outcome.difference) for outcome in own)
        hits = ", ".join(f"{count} {fault}" for fault, count in sorted(faults.items()))
        click.echo(f"{command}: {len(own)} runs; hit: {hits or 'none'}; {whole} whole, {differing} of them "
                   f"or of those that did not go on different")  # fmt: skip
    return sum(bool(outcome.difference) for outcome in outcomes)


def _pages(folder: Path) -> int:
    """Of 4096 bytes, that the folder takes on a tmpfs: at least one for each file and folder."""
    return 8 + sum(1 + path.stat().st_size // 4096 for path in folder.rglob("*"))


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--moments", default=100, show_default=True, help="Faults per command.")
@click.option(
    "--disks", default=20, show_default=True, help="Full disks per command; needs the right to mount."
)
@click.option("--workers", default=1, show_default=True, help="Of clip, encode and score; 0 = without Ray.")
@click.option("--only", multiple=True, type=click.Choice([c.name for c in COMMANDS]), help="[default: all]")
def main(out: Path, moments: int, disks: int, workers: int, only: tuple[str, ...]) -> None:
    place = Place(out.absolute())
    write_media(place.undisturbed / "media")
    for command in COMMANDS:
        campaign = Campaign(command, place, workers)
        if only and command.name not in only:
            continue
        done = {(o.moment, o.fault == "disk full") for o in place.outcomes() if o.command == command.name}
        for moment in (m for m in range(moments) if (m, False) not in done):
            place.add(campaign.disturb(moment))
        if (last := campaign.end()) is not None:
            place.add(last)
        for moment in (m for m in range(disks) if (m, True) not in done):
            place.add(campaign.fill_disk(moment))
    sys.exit(1 if report(place.outcomes()) else 0)


if __name__ == "__main__":
    main()
