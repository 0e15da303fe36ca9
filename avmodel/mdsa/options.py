"""The options of the MDSA's training and of reconstruction.

Light: the command line reads the defaults here without torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from avmodel.config import MDSAConfig
from avmodel.training.errors import TrainingError
from avmodel.training.options import Device, TrainingOptions, runtime
from avprep.credentials import require_no_credentials_in

if TYPE_CHECKING:
    from avprep.shards.outputs import Places

Backbone = Literal["vgg16", "squeezenet1_1", "alexnet"]
BACKBONES: tuple[Backbone, ...] = ("vgg16", "squeezenet1_1", "alexnet")


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """The weights of eq 10. g weighs 1, once it is on."""

    pixel: float = 4.0  # [paper]
    kl: float = 6e-6  # [paper]
    lpips: float = 4.0  # [PVDM]
    fm: float = 4.0  # [PVDM] feature matching
    modality: float = 0.5  # [paper] of all terms of one modality


@dataclass(frozen=True, kw_only=True)
class LPIPSConfig:
    """Which LPIPS, and its two files (.pth, .safetensors, .npz); None takes one from its usual source.

    The files may move between two runs: what they hold is compared by the weights' SHA-256.

    Raises:
        ValueError: an unknown backbone.
    """

    backbone: Backbone = "vgg16"
    backbone_weights: Path | None = runtime(None)
    heads: Path | None = runtime(None)

    def __post_init__(self) -> None:
        if self.backbone not in BACKBONES:
            raise ValueError(f"backbone must be one of {', '.join(BACKBONES)}, not {self.backbone!r}")


@dataclass(frozen=True, kw_only=True)
class MDSATrainingOptions(TrainingOptions):
    """How an MDSA is trained: `stage1_steps` of L1 and LPIPS, then `stage2_steps` with the KL term and the
    discriminators.

    Raises:
        TrainingError: a value out of range, or nothing to train.
    """

    clips: Places = runtime()  # outputs of `avprep clip`; what they hold is compared, not where they lie
    model: MDSAConfig
    loss: LossWeights = LossWeights()
    lpips: LPIPSConfig | None = LPIPSConfig()  # None: without the term
    stage1_steps: int = 1500
    stage2_steps: int = runtime(0)  # a run may be made longer, unless `cooldown_steps` counts from its end
    disc_start: int = 0  # steps of stage 2 before the discriminators
    disc_width: int = 64  # channels of their first layer
    disc_layers: int = 3  # of stride 2
    batch_size: int = 4
    accumulate: int = 1  # micro-batches per step
    warmup_steps: int = 0
    cooldown_steps: int = 0  # the last ones, over which the rate falls to 0
    modality_dropout: float = 0.0  # share of training clips in which one stream is silent or black
    holdout: float = 0.05  # share of sources kept for PSNR
    loader_workers: int = runtime(2)
    checkpoint_every: int = runtime(500)
    eval_every: int = runtime(250)
    eval_clips: int = runtime(32)
    checkpoint_activations: bool = runtime(False)  # less memory, a third more work

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps <= 0:
            raise TrainingError(
                f"stage1_steps = {self.stage1_steps} and `stage2_steps` = {self.stage2_steps}: nothing is "
                f"trained"
            )

    @property
    def steps(self) -> int:
        return self.stage1_steps + self.stage2_steps


@dataclass(frozen=True, kw_only=True)
class ReconstructOptions:
    ckpt: Path
    clips: Path
    out: Path
    limit: int | None = None  # clips, spread over all; None: all
    batch_size: int = 8
    device: Device = "auto"

    def __post_init__(self) -> None:
        require_no_credentials_in(self)
