"""`avprep select` as a function."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from avprep.api.sources import AnyPath
from avprep.jobs.config import SelectConfig, SplitBy
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
    exclude_ids: AnyPath | None = SelectConfig.exclude_ids,
    near_duplicates: int | None = SelectConfig.near_duplicates,
    order: str = SelectConfig.order,
    seed: int = SelectConfig.seed,
    split: Mapping[str, float] | None = None,
    by: SplitBy = SelectConfig.by,
    ids: AnyPath | None = SelectConfig.ids,
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
        exclude_ids: a list of sources to leave out, one per line or row: YouTube ids, file names or paths.
        near_duplicates: one clip of each group is kept, whose prints differ in at most so many of 288 bits;
            it needs the scores `phash` and `audio_print`, and faiss. None = all are kept.
        order: 'random', or a column ('luma': the lowest first; '-luma': the highest), nulls last.
        seed: of the random order and the splits.
        split: name to share, {'train': 0.9, 'val': 0.1}: each part is a selection of its own, NAME-train and
            NAME-val, beside the whole one. Shares are of sources, and met about.
        by: what no part of a split straddles: 'source'; or 'group', a source and a group of near-duplicates,
            all of which are then kept.
        ids: a file for the chosen clips' sources, starts and keys by tabs, in order; None = none is written.
        rebuild: replaces a selection of this name.

    Returns:
        How the whole selection was made: `funnel`, what each step removed; `digest`, the SHA-256 of its keys.

    Raises:
        ArgumentError: an argument out of range, or a column that is not there.
        JobError: another selection has the name; scores of a column are missing or stale; a split is empty.
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
        exclude_ids=None if exclude_ids is None else Path(exclude_ids),
        near_duplicates=near_duplicates,
        order=order,
        seed=seed,
        split=split or {},
        by=by,
        ids=None if ids is None else Path(ids),
        rebuild=rebuild,
    )
    return run_select(config)[name]
