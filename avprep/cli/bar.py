"""The progress bar of a job."""

from __future__ import annotations

import sys
import time

import click
from tqdm import tqdm

from avprep.cli.group import with_options
from avprep.jobs.progress import Progress
from avprep.shards.ledger import Sums

_PLANNING_S = 5.0  # between two lines of planning


class BarProgress:
    """tqdm over clips, with clips/s, failures and, of an encoder, its busy share; planning prints lines."""

    def __init__(self) -> None:
        self._bar: tqdm | None = None
        self._failed = 0
        self._printed = time.monotonic()
        self.callbacks = Progress(
            planning=lambda sources: self._planning(sources),
            planned=self._planned,
            shard_done=self._shard_done,
            worker_lost=lambda what: self._say(f"worker lost, {what}; its shard is tried again"),
            say=self._say,
        )

    def _planning(self, sources: int) -> None:
        if time.monotonic() - self._printed > _PLANNING_S:
            self._printed = time.monotonic()
            click.echo(f"planning: {sources:,} headers read", err=True)

    def _planned(self, clips: int, shards: int) -> None:
        if clips:
            self.close()  # of the clips; those that lack scores come after them
            self._bar = tqdm(total=clips, unit="clip", desc=f"{shards:,} shards", smoothing=0.05)

    def _shard_done(self, sums: Sums, busy: float | None) -> None:
        self._failed += sums.by_status["failed"]
        if self._bar is None:
            return
        shown: dict[str, object] = {} if busy is None else {"busy": f"{busy:.0%}"}
        self._bar.set_postfix({**shown, "failed": self._failed}, refresh=False)
        self._bar.update(sums.planned)

    def _say(self, what: str) -> None:
        tqdm.write(with_options(what), file=sys.stderr)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
