"""The jobs of `avprep clip` and `avprep encode` as functions: no printing, no exit, one progress callback."""

from __future__ import annotations

import math
import os
import posixpath
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from avprep.api.checks import require_number, require_one_of, require_spec, require_whole, samples_of
from avprep.datasets import DATASETS, list_dataset
from avprep.datasets.source import DatasetError, DatasetOptions, Source, caption_of
from avprep.errors import ArgumentError
from avprep.execution import PoolConfig, RunnerConfig, RunnerError, available_cpus
from avprep.jobs.clip import JobConfig, JobReport, Progress, run_clip_job
from avprep.jobs.encode import EncodeConfig, EncodeProgress, EncodeReport, run_encode_job
from avprep.jobs.output import JobError, absolute, overlap
from avprep.jobs.planning import PlanOptions
from avprep.media.crop import CROPS, Crop
from avprep.media.source import MediaGone
from avprep.shards.latents import EncoderHeader
from avprep.shards.layout import VIDEO_CODECS, VideoCodec
from avprep.shards.ledger import Sums
from avprep.spec import ClipSpec
from avprep.stages.clip import ClipOptions
from avprep.stages.encode import EncodeOptions
from avprep.stages.encoder import EncoderFactory

_DEVICES = ("auto", "cpu", "cuda")
_GIVEN = "sources"  # the dataset's name in spec.json where the caller lists the sources


@dataclass(frozen=True, kw_only=True)
class RunProgress:
    """Where a run is: passed to the `progress` callback whenever something has changed."""

    headers: int = 0  # source files probed for the plan so far
    shards: int = 0  # that this run makes; 0 until the plan is there
    shards_done: int = 0
    clips: int = 0  # planned clips of those shards
    clips_done: int = 0
    failed: int = 0  # of the clips done
    message: str = ""  # '', or something to know: a worker lost, a batch size found


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """What a run did, and what the output holds after it: planned = written + filtered + failed."""

    shards: int  # of the plan
    made: int  # shards that this run made
    planned: int  # clips
    written: int
    filtered: int
    failed: int
    reasons: dict[str, int] = field(default_factory=dict)  # of what is filtered or failed: clips by reason
    elapsed_s: float = 0.0  # seconds that making took
    new_sources: int = 0  # listed now and not in the plan, which is kept
    changed_sources: int = 0  # with other labels or captions now than in the plan
    damaged: tuple[str, ...] = ()  # clip shards that could not be encoded, and why: not made, not counted


def clip_dataset(
    sources: str | os.PathLike[str] | Iterable[Source | str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str] | None = None,
    dataset: str = "folder",
    split: str | None = None,
    list_file: str | os.PathLike[str] | None = None,
    label_from_folder: bool = False,
    follow_links: bool = False,
    spec: ClipSpec = ClipSpec(),
    stride_s: float | None = None,
    clips_per_source: int | None = None,
    limit: int | None = None,
    shard_size: int = 256,
    crop: Crop = "center",
    video_codec: VideoCodec = "jpeg",
    drop_silent_db: float | None = None,
    drop_static: float | None = None,
    drop_black: float | None = None,
    max_residual_ms: float | None = None,
    source_timeout_s: float = 600.0,
    workers: int | None = None,
    address: str | None = None,
    rebuild: bool = False,
    only_failed: bool = False,
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
        dataset, split, list_file, label_from_folder, follow_links: how a root folder is listed, as by
            `--dataset`, `--split`, `--list`, `--label-from-folder` and `--follow-links`.
        spec: what a clip is.
        stride_s: seconds from one clip's start to the next's; None = a clip's length.
        clips_per_source: at most, spread over the source; None = all.
        limit: clips in all; None = all.
        shard_size: clips per shard.
        crop: 'center', 'pad' or 'stretch'.
        video_codec: how frames are stored: 'jpeg', 'raw' or 'h264'.
        drop_silent_db: leaves out clips whose RMS is below, dB of full scale.
        drop_static: leaves out clips whose frames change less on average, levels of 255.
        drop_black: leaves out clips darker on average, levels of 255.
        max_residual_ms: leaves out clips with a frame further from its instant, milliseconds.
        source_timeout_s: the time limit for the clips of one source in a shard.
        workers: Ray workers; 0 = one process beside this one, without Ray; None = one per CPU.
        address: of a Ray cluster to attach to.
        rebuild: starts the output over.
        only_failed: tries the failed sources of a finished run again.
        progress: called in this thread with a `RunProgress`. What it raises ends the run.

    Raises:
        ArgumentError: an argument out of range, or that does not go with another.
        DatasetError: the root cannot be listed, or holds no source.
        JobError: another run holds the output, it was begun with other arguments, or the media are gone.
        RunnerError: Ray cannot be started or attached to.
        Stopped: after a signal, when the shards in hand are done.
        OSError: the output cannot be written.
    """
    _require_folder_name("out", out)
    require_spec(spec)
    require_one_of("dataset", dataset, tuple(DATASETS))
    require_number("source_timeout_s", source_timeout_s, above=0)
    plan = PlanOptions(
        spec=spec,
        stride_samples=None if stride_s is None else samples_of("stride_s", stride_s, spec, least=1),
        clips_per_source=clips_per_source,
        limit=limit,
        shard_size=shard_size,
    )
    clip = ClipOptions(
        spec=spec,
        crop=crop,
        video_codec=video_codec,
        drop_silent_db=drop_silent_db,
        drop_static=drop_static,
        drop_black=drop_black,
        max_residual_ms=max_residual_ms,
    )
    _check_options(plan, clip)
    listing = DatasetOptions(
        root=Path("."),
        split=split,
        csv=None if list_file is None else Path(list_file),
        label_from_folder=label_from_folder,
        follow_links=follow_links,
    )
    with _errors_of_arguments():
        name, root, listed = _listed(sources, root, dataset, listing)
        _require_apart(out, root)
        config = JobConfig(
            dataset=name,
            split=split,
            root=root.absolute(),
            out=absolute(os.fspath(out)),
            plan=plan,
            clip=clip,
            runner=_runner(workers, address),
            source_timeout_s=source_timeout_s,
            rebuild=rebuild,
            only_failed=only_failed,
        )
        return _clip_report(run_clip_job(listed, config, _Teller(progress).clip_hooks()))


def encode_dataset(
    clips: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    header: EncoderHeader,
    open_encoder: EncoderFactory,
    packed: bool = False,
    posterior: bool = False,
    batch_size: int | None = None,
    compile: bool | None = None,
    device: str = "auto",
    workers: int | None = None,
    address: str | None = None,
    rebuild: bool = False,
    progress: Callable[[RunProgress], None] | None = None,
) -> RunReport:
    """Encodes finished clips into latent shards, as `avprep encode --clips` does. To resume, call it again.

    Args:
        clips: a finished output of `clip_dataset` or `avprep clip`.
        out: a folder, made if need be, or a URI that pyarrow.fs opens.
        header: what the encoder makes, and the hash of its weights. Of an MDSA checkpoint:
            `avmodel.mdsa.checkpoint.read_codec_header(path)`.
        open_encoder: opens the encoder in the process that uses it: called with `device`, `batch_size` and
            `compile`. Of an MDSA checkpoint: `functools.partial(avmodel.mdsa.checkpoint.open_codec, path)`.
            Its `encode(frames, mel)` takes uint8 (B, T, H, W, RGB) and float16 (B, T, n_mels, W) tensors and
            returns an object with `mean` in [-1, 1] and `logvar`, float32 (B, C, P, rows, columns).
        packed: stores the real values alone, without the planes' padding.
        posterior: stores the log-variance beside the mean.
        batch_size: clips at once; None = found by trying.
        compile: compiles the encoder; None = on a GPU.
        device: 'auto' (a GPU if there is one), 'cpu' or 'cuda'.
        workers: processes with a model each, on Ray; 0 = in this process; None = one per GPU or, without, one
            per CPU.
        address, rebuild, progress: as for `clip_dataset`.

    Raises:
        ArgumentError: an argument out of range.
        JobError: the clips are not finished or not those that the encoder was trained on; another run holds
            the output, or it was begun with other arguments.
        EncodeError: the encoder cannot do what it is asked for.
        RunnerError: no workers as asked for, or one is lost again and again.
        Stopped: after a signal, when the shards in hand are done.
        OSError: the output cannot be written.
    """
    _require_folder_name("clips", clips)
    _require_folder_name("out", out)
    require_one_of("device", device, _DEVICES)
    if batch_size is not None:
        require_whole("batch_size", batch_size, least=1)
    if workers is not None:
        require_whole("workers", workers, least=0)
    config = EncodeConfig(
        source=absolute(os.fspath(clips)),
        out=absolute(os.fspath(out)),
        header=header,
        open_encoder=open_encoder,
        options=EncodeOptions(packed=packed, posterior=posterior),
        pool=PoolConfig(workers=workers, address=address, device=device),
        batch_size=batch_size,
        compile=compile,
        rebuild=rebuild,
    )
    with _errors_of_arguments(), _own_threads():
        return _encode_report(run_encode_job([], config, _Teller(progress).encode_hooks()))


def _check_options(plan: PlanOptions, clip: ClipOptions) -> None:
    """Raises ArgumentError for a value that the command line would not take either."""
    require_one_of("crop", clip.crop, CROPS)
    require_one_of("video_codec", clip.video_codec, VIDEO_CODECS)
    for name in ("clips_per_source", "limit", "shard_size"):
        value = getattr(plan, name)
        if value is not None or name == "shard_size":
            require_whole(name, value, least=1)
    for name, lowest, highest in (
        ("drop_silent_db", -math.inf, math.inf),
        ("drop_static", 0, 255),
        ("drop_black", 0, 255),
        ("max_residual_ms", 0, math.inf),
    ):
        level = getattr(clip, name)
        if level is not None and not lowest <= level <= highest:
            raise ArgumentError(f"{name} must be from {lowest:g} to {highest:g}, not {level!r}")


# --- sources -----------------------------------------------------------------------------------------------


def _listed(
    sources: str | os.PathLike[str] | Iterable[Source | str | os.PathLike[str]],
    root: str | os.PathLike[str] | None,
    dataset: str,
    options: DatasetOptions,
) -> tuple[str, Path, list[Source]]:
    """(dataset's name, root, sources). Raises ArgumentError, DatasetError."""
    if isinstance(sources, (str, os.PathLike)):
        if root is not None:
            raise ArgumentError("root goes with a list of sources; a folder is its own root")
        if not os.path.isdir(sources):
            raise ArgumentError(
                f"sources = {os.fspath(sources)!r} is no folder; for single files give a "
                f"list of them and root, the folder that they lie in"
            )
        listing = list_dataset(dataset, replace(options, root=Path(sources)))
        return dataset, listing.root, listing.sources
    if root is None:
        raise ArgumentError("root is needed for a list of sources: their paths are kept relative to it")
    if options != DatasetOptions(root=options.root) or dataset != "folder":
        raise ArgumentError(
            "dataset, split, list_file, label_from_folder and follow_links go with a folder, "
            "not with a list of sources"
        )
    if not os.path.isdir(root):
        raise ArgumentError(f"root = {os.fspath(root)!r} is no folder")
    return _GIVEN, Path(root), _checked_sources(sources, Path(root))


def _checked_sources(sources: Iterable[Source | str | os.PathLike[str]], root: Path) -> list[Source]:
    """Each with its path relative to the root, once per (path, start_s)."""
    found: dict[tuple[str, float], Source] = {}
    for i, given in enumerate(sources):
        source = given if isinstance(given, Source) else Source(path=os.fspath(given))
        name = f"sources[{i}] = {source.path!r}"
        source = replace(source, path=_relative(name, source.path, root))
        stop_s = math.inf if source.stop_s is None else source.stop_s
        if not 0 <= source.start_s < stop_s or not source.start_s < math.inf:
            raise ArgumentError(f"{name}: [{source.start_s}, {source.stop_s}) is no span of seconds")
        if isinstance(source.labels, str):
            raise ArgumentError(f"{name}: labels must be a tuple of strings, not {source.labels!r}")
        labels = tuple(source.labels)
        source = replace(source, labels=labels, caption=source.caption or caption_of(labels))
        place = source.path, source.start_s
        if place in found:
            raise ArgumentError(f"{name} is given twice with start_s = {source.start_s:g}")
        found[place] = source
    if not found:
        raise ArgumentError("sources is empty")
    return sorted(found.values(), key=lambda source: (source.path, source.start_s))


def _relative(name: str, path: str, root: Path) -> str:
    """The path under the root in one spelling: it is the source's identity. Raises ArgumentError."""
    relative = posixpath.normpath(path)
    for folder in (root.absolute(), root.resolve()):
        relative = relative.removeprefix(str(folder).rstrip("/") + "/")
    if relative.startswith("/") or relative.split("/", 1)[0] in ("..", ".", "") or "\0" in relative:
        raise ArgumentError(f"{name} does not lie under root = {root}")
    return relative


# --- places ------------------------------------------------------------------------------------------------


def _require_folder_name(name: str, uri: str | os.PathLike[str]) -> None:
    if not isinstance(uri, (str, os.PathLike)) or not os.fspath(uri).strip():
        raise ArgumentError(f"{name} must name a folder, not {uri!r}")


def _require_apart(out: str | os.PathLike[str], root: Path) -> None:
    """Raises ArgumentError where the output would lie among the media, or the media in the output."""
    if overlap(os.fspath(out), root) is not None:
        raise ArgumentError(f"out = {os.fspath(out)!r} must lie beside the media, not in or around {root}")


# --- how it runs -------------------------------------------------------------------------------------------


def _runner(workers: int | None, address: str | None) -> RunnerConfig:
    if workers is None:
        workers = 0 if address else available_cpus()
    require_whole("workers", workers, least=0)
    return RunnerConfig(workers=workers, address=address)


@contextmanager
def _errors_of_arguments() -> Iterator[None]:
    """The jobs' errors name the command line's options: here they name the arguments."""
    try:
        yield
    except (JobError, RunnerError, DatasetError) as error:
        told = _of_arguments(str(error))
        if told == str(error):
            raise
        raise type(error)(told) from error
    except MediaGone as error:
        raise JobError(_of_arguments(str(error))) from error


def _of_arguments(told: str) -> str:
    """'--only-failed' -> 'only_failed': what the option is called as an argument."""
    names = {"--list": "list_file", "--root": "the root folder", "--ckpt": "the encoder"}
    return re.sub(r"(?<![\w/-])--[a-z][a-z-]*", lambda m: names.get(m[0], m[0][2:].replace("-", "_")), told)


@contextmanager
def _own_threads() -> Iterator[None]:
    """Gives torch back the threads that it had: a worker in this process takes one."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class _Teller:
    """The jobs' callbacks, gathered into one."""

    def __init__(self, progress: Callable[[RunProgress], None] | None) -> None:
        self._progress = progress
        self._now = RunProgress()

    def clip_hooks(self) -> Progress:
        return Progress(
            planned=self._planned,
            shard_done=self._shard_done,
            worker_lost=self._worker_lost,
            planning=self._planning,
        )

    def encode_hooks(self) -> EncodeProgress:
        return EncodeProgress(
            planned=self._planned,
            shard_done=lambda result, _busy: self._shard_done(result.sums),
            worker_lost=self._worker_lost,
            planning=self._planning,
            say=self._say,
        )

    def _planning(self, headers: int) -> None:
        self._tell(headers=headers)

    def _planned(self, clips: int, shards: int) -> None:
        self._tell(clips=clips, shards=shards)

    def _shard_done(self, sums: Sums) -> None:
        now = self._now
        self._tell(
            shards_done=now.shards_done + 1,
            clips_done=now.clips_done + sums.planned,
            failed=now.failed + sums.by_status["failed"],
        )

    def _worker_lost(self, what: str) -> None:
        self._say(f"worker lost, {what}; its shard is tried again")

    def _say(self, what: str) -> None:
        self._tell(message=_of_arguments(what))

    def _tell(self, *, message: str = "", **changed: int) -> None:
        self._now = replace(self._now, message=message, **changed)
        if self._progress is not None:
            self._progress(self._now)


# --- reports -----------------------------------------------------------------------------------------------


def _clip_report(report: JobReport) -> RunReport:
    return RunReport(
        shards=report.shards,
        made=report.made,
        elapsed_s=report.elapsed_s,
        new_sources=report.new_sources,
        changed_sources=report.changed_sources,
        **_counts(report.sums),
    )


def _encode_report(report: EncodeReport) -> RunReport:
    return RunReport(
        shards=report.shards,
        made=report.made,
        elapsed_s=report.elapsed_s,
        damaged=tuple(report.damaged),
        **_counts(report.sums),
    )


def _counts(sums: Sums) -> dict[str, int | dict[str, int]]:
    by_status: Counter[str] = sums.by_status
    return {
        "planned": sums.planned,
        "written": by_status["written"],
        "filtered": by_status["filtered"],
        "failed": by_status["failed"],
        "reasons": dict(sorted(sums.by_reason.items())),
    }
