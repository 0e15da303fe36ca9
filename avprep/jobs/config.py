"""What a job is asked to do: frozen dataclasses with all defaults, built by the command line and the API.

The options of single stages stand in `avprep.stages.options`. Both modules are light: the command line reads
its defaults from them before anything heavy is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from avprep.checks import require_between, require_number, require_one_of, require_shares, require_whole
from avprep.datasets.source import Source
from avprep.errors import ArgumentError
from avprep.execution import PoolConfig, RunnerConfig, available_cpus
from avprep.shards.layout import VIDEO_CODECS, VideoCodec
from avprep.spec import ClipSpec
from avprep.stages.options import ClipOptions, EncodeOptions

if TYPE_CHECKING:
    from avprep.datasets.cut_list import CutList
    from avprep.media.detectors import Detector
    from avprep.shards.latents import EncoderHeader
    from avprep.stages.encoder import EncoderFactory


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """Which clips are cut, and how many of them a shard holds.

    Raises:
        ArgumentError: a value out of range, or two that exclude each other.
    """

    stride_samples: int | None = None  # from one clip's start to the next's; None = a clip's length
    at_events: bool = False  # clips start where the sources' events do
    clips_per_source: int | None = None  # spread over the source; None = all that fit
    limit: int | None = None  # clips in all; None = all
    shard_size: int = 256  # clips

    def __post_init__(self) -> None:
        require_whole("shard_size", self.shard_size, least=1)
        for name in ("stride_samples", "clips_per_source", "limit"):
            value = getattr(self, name)
            if value is not None:
                require_whole(name, value, least=1)
        if self.at_events and self.stride_samples is not None:
            raise ArgumentError("at_events = True: clips start where events do; give no stride")

    def stride(self, spec: ClipSpec) -> int:
        """Samples from one clip's start to the next's."""
        return spec.samples if self.stride_samples is None else self.stride_samples


@dataclass(frozen=True, kw_only=True)
class FromMedia:
    """Clips cut from media files: the sources of a dataset, how they are cut, and who decodes them.

    Raises:
        ArgumentError: a value out of range.
    """

    dataset: str
    root: Path  # absolute; the sources' paths are relative to it
    sources: list[Source] = field(repr=False)
    split: str | None = None
    plan: PlanOptions = PlanOptions()
    clip: ClipOptions = ClipOptions()
    runner: RunnerConfig = field(default_factory=lambda: RunnerConfig(workers=available_cpus()))
    source_timeout_s: float = 600.0  # for the clips of one source in a shard, and for its cuts
    cuts: Detector | CutList | None = None  # what finds or names those that no clip contains; None = none is

    def __post_init__(self) -> None:
        require_number("source_timeout_s", self.source_timeout_s, above=0)


@dataclass(frozen=True, kw_only=True)
class FromClips:
    """Clips of a finished output of the clip job."""

    uri: str
    select: str | None = None  # the name of a selection of it; None = all clips


@dataclass(frozen=True, kw_only=True)
class Growth:
    """What a run takes into a plan that is there of what became of its sources. Rows of a list that named no
    source, and are mended, are taken with either."""

    add_new: bool = False  # sources that the plan does not have come into new shards behind the old ones
    replace_changed: bool = False  # so do those that are others now, and their old clips go

    def __bool__(self) -> bool:
        return self.add_new or self.replace_changed

    def require_none(self, why: str) -> None:
        """Raises ArgumentError, with the reason, where anything is taken."""
        for name in ("add_new", "replace_changed"):
            if getattr(self, name):
                raise ArgumentError(f"{name} = True: {why}")


_NOT_WITH_REBUILD = "it keeps what was written, and rebuild=True starts over; give one of them"


@dataclass(frozen=True, kw_only=True)
class ClipJobConfig:
    """What the clip job is asked to do.

    Raises:
        ArgumentError: a value out of range, or two that exclude each other.
    """

    source: FromMedia
    out: str
    video_codec: VideoCodec = "jpeg"
    rebuild: bool = False
    only_failed: bool = False
    growth: Growth = Growth()
    score: tuple[str, ...] | None = None  # scores that are written with the shards; () = all, None = none
    weights_yamnet: Path | None = None  # of the score `tags`: see ScoreJobConfig

    def __post_init__(self) -> None:
        require_one_of("video_codec", self.video_codec, VIDEO_CODECS)
        if self.weights_yamnet is not None and self.score is None:
            raise ArgumentError(f"weights_yamnet = {self.weights_yamnet}: only scores need it; give `score`")
        if self.rebuild:
            self.growth.require_none(_NOT_WITH_REBUILD)
            if self.only_failed:
                raise ArgumentError(f"only_failed = True: {_NOT_WITH_REBUILD}")


@dataclass(frozen=True, kw_only=True)
class EncodeJobConfig:
    """What the encode job is asked to do.

    Raises:
        ArgumentError: a value out of range, or two that exclude each other.
    """

    source: FromClips | FromMedia
    out: str
    header: EncoderHeader  # of the checkpoint
    open_encoder: EncoderFactory
    options: EncodeOptions = EncodeOptions()
    pool: PoolConfig = PoolConfig(workers=None)
    batch_size: int | None = None  # None = found by trying
    compile: bool | None = None  # None = where there is a GPU
    rebuild: bool = False
    growth: Growth = Growth()  # of media: the plan of finished clips is followed as it is

    def __post_init__(self) -> None:
        if self.batch_size is not None:
            require_whole("batch_size", self.batch_size, least=1)
        if self.rebuild:
            self.growth.require_none(_NOT_WITH_REBUILD)
        if isinstance(self.source, FromClips):
            self.growth.require_none(
                "it goes with media; finished clips are added to by `avprep clip`, and encoded by the same "
                "command as before"
            )


@dataclass(frozen=True, kw_only=True)
class ScoreJobConfig:
    """What the score job is asked to do."""

    clips: str  # a finished output of the clip job
    only: tuple[str, ...] = ()  # names of scores; () = all
    weights_yamnet: Path | None = None  # the .npz of YAMNet's layers, with its class map beside it
    runner: RunnerConfig = field(default_factory=lambda: RunnerConfig(workers=available_cpus()))
    clip_timeout_s: float = 120.0  # for the scores of one clip
    rebuild: bool = False  # computes what is stored again

    def __post_init__(self) -> None:
        require_number("clip_timeout_s", self.clip_timeout_s, above=0)


PRINT_BITS = 288  # of a clip's phash and audio_print
SplitBy = Literal["source", "group"]
SPLIT_BY: tuple[SplitBy, ...] = get_args(SplitBy)


@dataclass(frozen=True, kw_only=True)
class SelectConfig:
    """Which finished clips are selected.

    Raises:
        ArgumentError: a value out of range.
    """

    clips: str  # a finished output of the clip job
    query: str
    name: str  # of the selection
    per_label: int | None = None  # clips of each label, at most; None = all
    limit: int | None = None  # clips, at most; None = all
    exclude_ids: Path | None = None  # a list of ids that must not be selected
    near_duplicates: int | None = None  # bits within which clips are near-duplicates; None = not looked for
    order: str = "random"  # or a column of the scores: COLUMN or -COLUMN
    seed: int = 0
    split: Mapping[str, float] = field(default_factory=dict)  # name to share; empty = no splits
    by: SplitBy = "source"  # what no split straddles
    ids: Path | None = None  # a file for the chosen clips' sources and starts, to be published
    rebuild: bool = False  # replaces a selection of that name

    def __post_init__(self) -> None:
        if self.near_duplicates is not None:
            require_whole("near_duplicates", self.near_duplicates, least=0)
            require_between("near_duplicates", self.near_duplicates, 0, PRINT_BITS)
        require_shares(self.split)
        require_one_of("by", self.by, SPLIT_BY)
        if self.by == "group" and (not self.split or self.near_duplicates is None):
            raise ArgumentError("by = group: it needs `split`, and `near_duplicates`, which says how near")
        for name in ("per_label", "limit"):
            value = getattr(self, name)
            if value is not None:
                require_whole(name, value, least=1)
        require_whole("seed", self.seed, least=0)
        if self.seed >= 2**64:
            raise ArgumentError(f"seed must be below 2^64, not {self.seed}")


@dataclass(frozen=True, kw_only=True)
class MergeConfig:
    """Which outputs are merged, and where."""

    outputs: tuple[str, ...]  # finished, of one kind
    out: str
    rebuild: bool = False


def runner_config(workers: int | None, address: str | None) -> RunnerConfig:
    """`workers` None: one per CPU of this machine, or, with an address, all of the cluster's.

    Raises:
        ArgumentError: a value out of range.
    """
    if workers is None:
        workers = 0 if address else available_cpus()
    require_whole("workers", workers, least=0)
    return RunnerConfig(workers=workers, address=address)
