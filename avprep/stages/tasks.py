"""What travels between a job and its workers: tasks and results.

A job imports this alone, without torch or av; the stages' code is imported where it runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from avprep.media.crop import Bars
from avprep.media.detectors import DetectorName
from avprep.media.timeline import Cut
from avprep.reasons import MediaError
from avprep.seconds import Seconds
from avprep.shards.layout import VideoCodec
from avprep.shards.ledger import Sums
from avprep.spec import ClipSpec
from avprep.stages.options import ClipOptions

if TYPE_CHECKING:
    from avprep.media.probe import MediaInfo


# Sources with planned clips that the ledger lacks; or those, and the sources with failed clips.
Remake = Literal["missing", "failed"]


@dataclass(frozen=True)
class ProbeTask:
    """`paths` lie under `root`; those with a verdict are not opened."""

    index: int
    root: str
    paths: tuple[str, ...]
    source_timeout_s: float
    verdicts: tuple[tuple[str, MediaError], ...] = ()
    detector: DetectorName | None = None  # of cuts; None: they are not looked for
    known: Mapping[str, str] = field(default_factory=dict)  # files whose cuts are known, and their versions
    with_bars: bool = False  # black bars are looked for

    def trial(self, paths: tuple[str, ...]) -> ProbeTask:
        return replace(self, paths=paths)

    def without(self, verdicts: dict[str, MediaError]) -> ProbeTask:
        return replace(self, verdicts=self.verdicts + tuple(verdicts.items()))


@dataclass(frozen=True, slots=True)
class Probed:
    """What the plan must know of a file."""

    version: str  # see `avprep.media.source.file_version`
    header: MediaInfo | MediaError  # or why it has none
    cuts: tuple[Cut, ...] | None = None  # ascending; None: they were not looked for, or are known
    bars: Bars | None = None  # None: they were not looked for


class ClipText(NamedTuple):
    """What KEY.json says of a clip besides what is measured."""

    labels: tuple[str, ...] = ()
    caption: str = ""
    caption_from: str | None = None  # None: KEY.json has no such field


@dataclass(frozen=True, kw_only=True)
class PlannedSource:
    """The clips of one source in one shard."""

    path: str  # under the root
    starts: tuple[int, ...]  # samples, ascending; (0,) where `verdict` says there is none
    texts: tuple[ClipText, ...] = ()  # of each start; () = no clip has any
    verdict: MediaError | None = None  # known when the plan was made: broken, or too short
    bars: Bars | None = None  # as the plan has them; None: it does not know them

    def text_of(self, start: int) -> ClipText:
        return self.texts[self.starts.index(start)] if self.texts else ClipText()


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """Which scores are computed, and with which weights."""

    scores: tuple[str, ...]
    weights_yamnet: Path | None = None
    weights_sha256: str = ""  # of that file


@dataclass(frozen=True, kw_only=True)
class ShardTask:
    """One planned shard. It carries paths and spans, never frames."""

    index: int
    sources: tuple[PlannedSource, ...]
    root: str
    out: str
    options: ClipOptions
    fingerprint: str
    source_timeout_s: float
    video_codec: VideoCodec = "raw"  # how frames are stored; not read where no clip shard is written
    # Of a shard that stands: which sources are made and merged into it; None = the shard is made whole.
    remake: Remake | None = None
    scoring: Scoring | None = None  # the scores that are written with the shard; None = no scores
    quarantined: frozenset[str] = frozenset()  # paths found to take their process down
    is_verdict_final: bool = False  # what the plan knew to be broken is not opened, whatever `remake` says
    # A trial decodes and writes nothing: the runner's way to find the source that kills its process.
    is_trial: bool = False

    def trial(self, sources: tuple[PlannedSource, ...]) -> ShardTask:
        return replace(self, sources=sources, is_trial=True)

    def without(self, verdicts: dict[str, MediaError]) -> ShardTask:
        """The same shard with some sources quarantined.

        It has no scores: a score may be what ended the process, and a clip is not given up for its scores.
        The score stage, which finds such a clip, computes them from the finished shard.
        """
        kept = (replace(s, verdict=verdicts.get(s.path, s.verdict)) for s in self.sources)
        quarantined = self.quarantined | verdicts.keys()
        return replace(self, sources=tuple(kept), quarantined=quarantined, scoring=None)


@dataclass(frozen=True, slots=True)
class Cost:
    """What clips cost to make."""

    clips: int  # made, or found to give none
    cpu_s: float  # of all threads
    size: int  # bytes of the clips' files


@dataclass(frozen=True, kw_only=True)
class ScoreTask:
    """The scores of one finished clip shard."""

    index: int
    clips: str  # the output
    spec: ClipSpec
    name: str  # of the tar
    sha256: str  # of the tar, by its ledger
    keys: tuple[str, ...]  # of its clips, in order
    scores: tuple[str, ...]  # to compute
    kept: Mapping[str, str] = field(default_factory=dict)  # stored ones, by name: see `Score.identity`
    weights_yamnet: Path | None = None
    weights_sha256: str = ""  # of that file
    verdicts: tuple[tuple[str, MediaError], ...] = ()  # clips found to take their process down
    # A trial computes the scores of `keys` and writes nothing: see ShardTask.
    is_trial: bool = False

    def trial(self, keys: tuple[str, ...]) -> ScoreTask:
        return replace(self, keys=keys, is_trial=True)

    def without(self, verdicts: dict[str, MediaError]) -> ScoreTask:
        return replace(self, verdicts=self.verdicts + tuple(verdicts.items()))


@dataclass(frozen=True, kw_only=True)
class ScoreResult:
    index: int
    clips: int = 0
    problems: int = 0  # clips of which a score could not be computed
    damage: str = ""  # what is wrong with the clip shard, whose scores were not written


@dataclass(frozen=True)
class ShardResult:
    index: int
    sums: Sums
    size: int  # bytes of the tar
    seconds: Seconds = field(default_factory=Seconds)  # by what was done
    counts: Counter[str] = field(default_factory=Counter)  # of what is rare: see `read_clips`
    scored: ScoreResult | None = None  # where scores were written with the shard
