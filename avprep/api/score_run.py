"""`avprep score` as a function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from avprep.api.runs import RunProgress, one_callback
from avprep.api.sources import AnyPath
from avprep.errors import ArgumentError
from avprep.jobs.config import ScoreJobConfig, runner_config
from avprep.jobs.output import absolute
from avprep.jobs.progress import ScoreReport
from avprep.jobs.score import run_score_job


def score_dataset(
    clips: AnyPath,
    *,
    only: Sequence[str] = ScoreJobConfig.only,
    weights_yamnet: AnyPath | None = ScoreJobConfig.weights_yamnet,
    workers: int | None = None,
    address: str | None = None,
    rebuild: bool = ScoreJobConfig.rebuild,
    progress: Callable[[RunProgress], None] | None = None,
) -> ScoreReport:
    """Scores finished clips, as `avprep score` does: a row per written clip in scores/NNNNNN.parquet.

    To resume, or to add a score, call it again: what is stored is kept, unless its shard was made again or
    its weights are others. A value that is not defined for a clip is null; a score that could not be computed
    of a clip is null too, and the column `problems` says why.

    Args:
        clips: a finished output of `avprep clip`.
        only: names of scores; () = all of `avprep.scores.catalogue`.
        weights_yamnet: YAMNet's layers (.npz), with yamnet_class_map.csv beside it. None: the score `tags` is
            left out.
        workers: Ray workers; 0 = one process beside this one, without Ray; None = one per CPU.
        address: of a Ray cluster to attach to.
        rebuild: computes stored scores again.
        progress: called in this thread with a `RunProgress`. What it raises ends the run.

    Returns:
        Counts of shards and clips; `left_out` says of each score that cannot run here what to install or to
        give, `damaged` which shards were left alone.

    Raises:
        ArgumentError: an argument out of range, or a name that no score has.
        OutputInUse: another run holds the output.
        ScoreUnavailable: none of the scores can run here.
        ShardError: no output of clips, or a damaged ledger or file of scores.
        Stopped: after a signal, when the shards in hand are done.
        OSError: the output cannot be written.
    """
    if isinstance(only, str):
        raise ArgumentError(f"only must be a list of names, not {only!r}")
    config = ScoreJobConfig(
        clips=absolute("clips", clips),
        only=tuple(only),
        weights_yamnet=None if weights_yamnet is None else Path(weights_yamnet),
        runner=runner_config(workers, address),
        rebuild=rebuild,
    )
    return run_score_job(config, one_callback(progress))
