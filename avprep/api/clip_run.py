"""`avprep clip` as a function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from avprep.api.runs import RunProgress, RunReport, one_callback, one_job_error, run_report
from avprep.api.sources import AnyPath, AnySources, listed_sources
from avprep.checks import require_spec, samples_of
from avprep.datasets.cut_list import CutList
from avprep.datasets.source import DatasetOptions
from avprep.errors import ArgumentError
from avprep.jobs.clip import run_clip_job
from avprep.jobs.config import ClipJobConfig, FromMedia, Growth, PlanOptions, runner_config
from avprep.jobs.cuts import chosen_cuts, require_named
from avprep.jobs.output import absolute, require_apart
from avprep.media.crop import Crop
from avprep.shards.layout import VideoCodec
from avprep.spec import ClipSpec
from avprep.stages.options import ClipOptions


def clip_dataset(
    sources: AnySources,
    out: AnyPath,
    *,
    root: AnyPath | None = None,
    dataset: str = "folder",
    split: str | None = DatasetOptions.split,
    list_file: AnyPath | None = DatasetOptions.list_file,
    label_from_folder: bool = DatasetOptions.label_from_folder,
    follow_links: bool = DatasetOptions.follow_links,
    exclude_labels: Sequence[str] = DatasetOptions.exclude_labels,
    with_ancestors: bool = DatasetOptions.with_ancestors,
    min_label_quality: float | None = DatasetOptions.min_label_quality,
    path_column: str | None = DatasetOptions.path_column,
    label_column: str | None = DatasetOptions.label_column,
    caption_column: str | None = DatasetOptions.caption_column,
    allow_outside: bool = DatasetOptions.allow_outside,
    spec: ClipSpec = ClipOptions.spec,
    stride_s: float | None = None,
    at_events: bool = PlanOptions.at_events,
    clips_per_source: int | None = PlanOptions.clips_per_source,
    limit: int | None = PlanOptions.limit,
    shard_size: int = PlanOptions.shard_size,
    crop: Crop = ClipOptions.crop,
    video_codec: VideoCodec = ClipJobConfig.video_codec,
    drop_silent_db: float | None = ClipOptions.drop_silent_db,
    drop_static: float | None = ClipOptions.drop_static,
    drop_black: float | None = ClipOptions.drop_black,
    max_residual_ms: float | None = ClipOptions.max_residual_ms,
    cuts: AnyPath | None = None,
    source_timeout_s: float = FromMedia.source_timeout_s,
    workers: int | None = None,
    address: str | None = None,
    rebuild: bool = ClipJobConfig.rebuild,
    only_failed: bool = ClipJobConfig.only_failed,
    add_new: bool = Growth.add_new,
    replace_changed: bool = Growth.replace_changed,
    score: Sequence[str] | None = ClipJobConfig.score,
    weights_yamnet: AnyPath | None = ClipJobConfig.weights_yamnet,
    progress: Callable[[RunProgress], None] | None = None,
) -> RunReport:
    """Cuts sources into clip shards, as `avprep clip` does. To resume, call it again with the same arguments.

    A clip that cannot be had is a row in the ledger (`read_ledger`), not an exception. In the main thread the
    first SIGINT or SIGTERM lets the shards in hand finish, and `Stopped` is raised; elsewhere signals are the
    caller's.

    Args:
        sources: the root folder of a dataset; or media files, each a path or a `Source` (which has a span,
            labels and a caption), under `root`.
        out: a folder, made if need be, or a URI that pyarrow.fs opens. Not in or around the media.
        root: the folder of listed files. Paths are kept relative to it: they are the sources' identity.
        dataset, split, list_file, label_from_folder, follow_links, path_column, label_column, caption_column,
            allow_outside: how a root folder is listed.
        exclude_labels: sources with any of these labels are left out.
        with_ancestors, min_label_quality: AudioSet's classes that a label is a kind of are added; labels that
            raters confirmed less often are left out.
        spec: what a clip is.
        stride_s: seconds from one clip's start to the next's; None = a clip's length.
        at_events: clips start where the events of a source do, and have the labels of those that sound in
            them. `Source.events` are `(start_s, stop_s, labels)`, in seconds of the span; of folders,
            AudioSet's strong lists have them.
        clips_per_source: at most, spread over the source; None = all.
        limit: clips in all; None = all.
        shard_size: clips per shard.
        crop: 'center', 'pad', 'stretch' or 'auto', which is 'center' between the black bars of the source.
        video_codec: how frames are stored: 'jpeg', 'raw' or 'h264'.
        drop_silent_db: leaves out clips whose RMS is below, dB of full scale.
        drop_static: leaves out clips whose frames change less on average, levels of 255.
        drop_black: leaves out clips darker on average, levels of 255.
        max_residual_ms: leaves out clips with a frame further from its instant, milliseconds.
        cuts: no clip contains a cut of its source, where the next clip begins: 'scenedetect' or 'transnetv2',
            the detector that finds them (the extra `cuts`); or a file that lists them; None = cuts are not
            looked for.
        source_timeout_s: the time limit for the clips of one source in a shard.
        workers: Ray workers; 0 = one process beside this one, without Ray; None = one per CPU.
        address: of a Ray cluster to attach to.
        rebuild: starts the output over.
        only_failed: tries the failed sources of a finished run again.
        add_new: clips sources that the plan of `out` does not have, into new shards behind the old ones.
        replace_changed: clips files anew, into new shards, that have another size or time than when they were
            planned, or are listed with other labels, captions or spans. Their old clips are removed. With
            this or `add_new`, failed rows of a list that was mended go.
        score: names of scores, or 'all': they are computed as the clips are made, and `score_dataset` finds
            them done. Shards that stand without them are read again. None = no scores.
        weights_yamnet: as of `score_dataset`; only with `score`.
        progress: called in this thread with a `RunProgress`. What it raises ends the run.

    Raises:
        ArgumentError: an argument out of range, or that does not go with another.
        DatasetError: the root cannot be listed, or holds no source.
        ScoreUnavailable: none of the scores can run here.
        ShardError: a damaged file of the output.
        JobError: the output was begun with other arguments, or the media are gone.
        OutputInUse: another run holds the output.
        RunnerError: Ray cannot be started or attached to.
        Stopped: after a signal, when the shards in hand are done.
        OSError: the output cannot be written.
    """
    place = absolute("out", out)
    require_spec(spec)
    chosen = chosen_cuts(cuts)
    plan = PlanOptions(
        stride_samples=None if stride_s is None else samples_of("stride_s", stride_s, spec, least=1),
        at_events=at_events,
        clips_per_source=clips_per_source,
        limit=limit,
        shard_size=shard_size,
    )
    clip = ClipOptions(
        spec=spec,
        crop=crop,
        drop_silent_db=drop_silent_db,
        drop_static=drop_static,
        drop_black=drop_black,
        max_residual_ms=max_residual_ms,
    )
    listing = DatasetOptions(
        root=Path("."),
        split=split,
        list_file=None if list_file is None else Path(list_file),
        label_from_folder=label_from_folder,
        follow_links=follow_links,
        exclude_labels=tuple(exclude_labels),
        with_ancestors=with_ancestors,
        min_label_quality=min_label_quality,
        at_events=at_events,
        path_column=path_column,
        label_column=label_column,
        caption_column=caption_column,
        allow_outside=allow_outside,
    )
    listed = listed_sources(sources, root, dataset, listing)
    require_apart(out, listed.root)
    if isinstance(chosen, CutList):
        require_named(chosen, listed.sources)
    source = FromMedia(
        dataset=listed.dataset,
        root=listed.root.absolute(),
        sources=listed.sources,
        split=split,
        plan=plan,
        clip=clip,
        runner=runner_config(workers, address),
        source_timeout_s=source_timeout_s,
        cuts=chosen,
    )
    config = ClipJobConfig(
        source=source,
        out=place,
        video_codec=video_codec,
        rebuild=rebuild,
        only_failed=only_failed,
        growth=Growth(add_new=add_new, replace_changed=replace_changed),
        score=_score_names(score),
        weights_yamnet=None if weights_yamnet is None else Path(weights_yamnet),
    )
    with one_job_error():
        report = run_clip_job(config, one_callback(progress))
    changes = report.changes
    return run_report(
        report,
        new_sources=len(changes.new),
        changed_sources=len(changes.changed),
        gone_sources=len(changes.gone),
        mended_rows=len(changes.mended),
        scored=report.scored,
    )


def _score_names(score: Sequence[str] | None) -> tuple[str, ...] | None:
    """As the job takes them: () for all, None for none. Raises ArgumentError for another text, and for an
    empty list."""
    if score is None or score == "all":
        return None if score is None else ()
    if isinstance(score, str) or not score:
        raise ArgumentError(f"score must be 'all' or a list of names, not {score!r}")
    return tuple(score)
