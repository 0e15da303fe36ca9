"""`avprep select` as a function."""

from __future__ import annotations

from avprep.api.sources import AnyPath
from avprep.jobs.config import SelectConfig
from avprep.jobs.output import absolute
from avprep.jobs.select import run_select
from avprep.shards.selection import SelectionHeader


def select(
    clips: AnyPath,
    query: str = "",
    *,
    name: str,
    per_label: int | None = SelectConfig.per_label,
    limit: int | None = SelectConfig.limit,
    order: str = SelectConfig.order,
    seed: int = SelectConfig.seed,
    rebuild: bool = SelectConfig.rebuild,
) -> SelectionHeader:
    """Chooses finished clips by their scores, as `avprep select` does: their keys are in
    selections/NAME.parquet.

    Args:
        clips: a finished output of `avprep clip`, scored by `score_dataset`.
        query: comparisons of a score's column with a number or a string, joined by `and`: 'cut == 0 and
            -45 < loudness_lufs'. A clip of which a column is null is removed. '': all finished clips.
        name: of the selection: letters, digits, '_' and '-'.
        per_label: at most so many clips of each label, the first in order; None = all.
        limit: at most so many clips, the first in order; None = all.
        order: 'random', or a column ('luma': the lowest first; '-luma': the highest), nulls last.
        seed: of the random order.
        rebuild: replaces a selection of this name.

    Returns:
        How the selection was made: `funnel`, what each step removed; `digest`, the SHA-256 of its keys.

    Raises:
        ArgumentError: an argument out of range, or a column that is not there.
        JobError: another selection has the name; or scores of a column are missing or stale.
        OutputInUse: another run holds the output.
        ShardError: no output of clips, or a damaged file of it.
        OSError: the output cannot be written.
    """
    config = SelectConfig(
        clips=absolute("clips", clips),
        query=query,
        name=name,
        per_label=per_label,
        limit=limit,
        order=order,
        seed=seed,
        rebuild=rebuild,
    )
    return run_select(config)
