"""The options of the STDiT's training and of sampling.

Light: the command line reads the defaults here without torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from avmodel.config import STDiTConfig
from avmodel.training.errors import TrainingError
from avmodel.training.options import Device, TrainingOptions, adjustable, runtime
from avprep.credentials import require_no_credentials_in

if TYPE_CHECKING:
    from avprep.shards.outputs import Places

Solver = Literal["euler", "midpoint"]
SOLVERS: tuple[Solver, ...] = ("euler", "midpoint")
Times = Literal["uniform", "logit-normal"]
TIMES: tuple[Times, ...] = ("uniform", "logit-normal")
LONGEST_WARMUP = 5000  # steps


@dataclass(frozen=True, kw_only=True)
class DiTTrainingOptions(TrainingOptions):
    """How an STDiT is trained.

    Raises:
        TrainingError: a value out of range.
    """

    latents: Places = runtime()  # outputs of `avprep encode`; what they hold is compared, not where they lie
    model: STDiTConfig
    steps: int = adjustable(4000)
    batch_size: int = 64
    times: Times = "uniform"  # how t is drawn in training [paper: uniform]
    # For a model with `stream_times`: share of samples whose streams have one time. In the others, by halves,
    # the streams' times are independent, or one stream is given (`flow.draw_stream_times`).
    shared_times: float = 0.5
    warmup_steps: int | None = None  # None: 5000, or a tenth of `steps` if that is less
    ema: float = 0.9999  # decay per step
    eval_clips: int = adjustable(256)
    mdsa: Path | None = runtime(None)  # to log pictures of samples

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.warmup_steps is None:
            object.__setattr__(self, "warmup_steps", min(LONGEST_WARMUP, self.steps // 10))
        if self.times not in TIMES:
            raise TrainingError(f"times must be one of {', '.join(TIMES)}, not {self.times!r}")
        if not 0 <= self.shared_times <= 1:
            raise TrainingError(f"shared_times must be from 0 to 1, not {self.shared_times}")

    @property
    def last_step(self) -> int:
        return self.steps


@dataclass(frozen=True, kw_only=True)
class SampleOptions:
    dit: Path
    mdsa: Path
    out: Path
    labels: tuple[str, ...] = ()  # of every clip; () draws them as the training set has them
    caption: str = ""
    captions_file: Path | None = None  # embeddings of captions, where the model reads those
    prompts: Path | None = None  # csv or JSON lines with a row per clip, in the place of labels and caption
    n: int | None = None  # clips; None: 8, or all rows of `prompts`
    steps: int = 30  # of the solver
    solver: Solver = "euler"
    guidance: float = 4.0  # scale of classifier-free guidance; 1 is none
    seed: int = 0
    given_video: Path | None = None  # its sound is made
    given_audio: Path | None = None  # its pictures are made
    batch_size: int = 16
    device: Device = "auto"

    def __post_init__(self) -> None:
        require_no_credentials_in(self)
