"""What a score is: a pure function of a clip, with the columns that it fills.

A score names its unit and range, the fields of the clip that it reads, what it costs, and what has to be
installed or given for it. `open_scores` sorts out those that cannot run here, each with the reason:

    SCORES -> open_scores(weights) -> opened: score(clip) -> {column: value}
                                   -> left out: score, what to install or to give

A value that is not defined for a clip (the loudness of digital silence) is None, a null in the table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from avprep.errors import AvprepError
from avprep.scores.clip import Field, ScoredClip

Kind = Literal["float", "int", "bool", "bits", "text"]
Value = float | int | bool | str | bytes | None
Measure = Callable[[ScoredClip], dict[str, Value]]

_TYPES: dict[Kind, type] = {"float": float, "int": int, "bool": bool, "bits": bytes, "text": str}

_EDITION = " edition "  # between the hash of the weights and the number; the first edition has neither


class ScoreError(AvprepError):
    """A score that cannot be computed: the message says what is wrong, and no number is given."""


class ScoreUnavailable(ScoreError):
    """A score that cannot run on this machine: the message says what to install or which file to give."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """One value of a score.

    `low` and `high` bound float and int columns, both included; None is no bound. For 'bits' columns
    `high` is the number of bits, a multiple of 8.
    """

    name: str
    kind: Kind
    unit: str
    meaning: str
    low: float | None = None
    high: float | None = None

    def check(self, value: Value) -> None:
        """Raises ScoreError for a value of another type, that is not finite, or out of range."""
        if value is None:
            return
        if type(value) is not _TYPES[self.kind]:
            raise ScoreError(f"column {self.name} is {self.kind}, not {type(value).__name__} {value!r}")
        if isinstance(value, bytes) and self.high is not None and len(value) * 8 != self.high:
            raise ScoreError(f"column {self.name} has {self.high:g} bits, not {len(value) * 8}")
        if isinstance(value, float | int) and self.kind != "bool" and not self._is_in_range(value):
            raise ScoreError(f"column {self.name} lies in [{self.low}, {self.high}], not at {value!r}")

    def _is_in_range(self, value: float) -> bool:
        above = self.low is None or value >= self.low
        below = self.high is None or value <= self.high
        return math.isfinite(value) and above and below


@dataclass(frozen=True, kw_only=True)
class WeightPaths:
    """The weights that are not shipped with a package, by path. None: not given."""

    yamnet: Path | None = None  # the .npz of YAMNet's layers, with yamnet_class_map.csv beside it


@dataclass(frozen=True, kw_only=True)
class Score:
    """A score, before anything is loaded.

    open: loads what the score needs, once per process, and returns its function. It may raise
    ScoreUnavailable. The function returns a value for each column, in the columns' order.
    """

    name: str
    columns: tuple[Column, ...]
    needs: tuple[Field, ...]  # the clip's fields that it reads
    cost: Literal["array", "network"]  # milliseconds of array arithmetic, or a neural network
    open: Callable[[WeightPaths], Measure]
    source: str  # the standard, paper or code that defines it
    modules: tuple[str, ...] = ()  # that must be installed, beside what avprep itself requires
    extra: str | None = None  # the extra of avprep that installs them
    weights: str | None = None  # the field of WeightPaths that must be given
    edition: int = 1  # raised when its values change: stored ones of another edition are computed anew

    def identity(self, weights_sha256: str) -> str:
        """What is stored with its values, and differs where they may: the weights' hash and the edition.

        weights_sha256: of the file of weights; it does not count for a score without any.
        """
        edition = f"{_EDITION}{self.edition}" if self.edition > 1 else ""
        return f"{weights_sha256 if self.weights else ''}{edition}"

    def is_of_edition(self, identity: str) -> bool:
        """Whether values that are stored with this identity are of this edition, whatever the weights."""
        return identity.partition(_EDITION)[1:] == self.identity("").partition(_EDITION)[1:]

    def require(self, paths: WeightPaths) -> None:
        """Raises ScoreUnavailable where a module is not installed or a weight file is not there."""
        missing = [module for module in self.modules if find_spec(module) is None]
        if missing:
            raise ScoreUnavailable(
                f"needs {', '.join(missing)}, which is not installed: pip install 'avprep[{self.extra}]'"
            )
        if self.weights is None:
            return
        path = getattr(paths, self.weights)
        if path is None:
            raise ScoreUnavailable(f"needs the {self.weights} weights: no path was given")
        if not path.is_file():
            raise ScoreUnavailable(f"needs the {self.weights} weights: {path} is no file")


@dataclass(frozen=True, kw_only=True)
class OpenScore:
    """A score that is ready to run in this process."""

    score: Score
    measure: Measure

    def __call__(self, clip: ScoredClip) -> dict[str, Value]:
        """The value of every column. Raises ScoreError for values that are not of the columns."""
        values = self.measure(clip)
        names = [column.name for column in self.score.columns]
        if list(values) != names:
            raise ScoreError(f"score {self.score.name} gives {list(values)}, its columns are {names}")
        for column in self.score.columns:
            column.check(values[column.name])
        return values


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A score that cannot run here, and why."""

    score: Score
    why: str


def open_scores(
    scores: Iterable[Score], paths: WeightPaths = WeightPaths()
) -> tuple[list[OpenScore], list[LeftOut]]:
    """Opens the scores that can run here; those that cannot are listed with the reason."""
    opened, left_out = [], []
    for score in scores:
        try:
            score.require(paths)
            opened.append(OpenScore(score=score, measure=score.open(paths)))
        except ScoreUnavailable as error:
            left_out.append(LeftOut(score=score, why=f"{score.name} {error}"))
    return opened, left_out


def needed_fields(scores: Iterable[Score]) -> tuple[Field, ...]:
    """The fields of a clip that the scores read: what `ClipDataset` has to decode."""
    return tuple(sorted({field for score in scores for field in score.needs}))


def without_weights(measure: Measure) -> Callable[[WeightPaths], Measure]:
    """The `open` of a score that loads nothing."""
    return lambda paths: measure
