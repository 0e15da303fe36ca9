"""The options of the MDSA's training and of reconstruction.

Light: the command line reads the defaults here without torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from avmodel.config import MDSAConfig
from avmodel.training.errors import TrainingError
from avmodel.training.options import Device, TrainingOptions, adjustable, runtime
from avprep.credentials import require_no_credentials_in

if TYPE_CHECKING:
    from avprep.shards.outputs import Places

Backbone = Literal["vgg16", "squeezenet1_1", "alexnet"]
BACKBONES: tuple[Backbone, ...] = ("vgg16", "squeezenet1_1", "alexnet")
_STEPS = ("stage1_steps", "stage2_steps", "disc_start", "disc_ramp", "warmup_steps")


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """The weights of eq 10. g weighs 1, once it is on."""

    pixel: float = 4.0  # [paper] L1
    mse: float = 0.0  # [paper: none] of the mean squared error, which is what PSNR measures
    kl: float = 6e-6  # [paper] in stage 2
    kl_stage1: float = 0.0  # [paper: no KL in stage 1] against saturated latents: as `kl`, from step 0 on
    lpips: float = 4.0  # [PVDM; eq 10 writes no weight, which is 1]
    fm: float = 4.0  # [PVDM; eq 10 writes no weight, which is 1] feature matching
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
    stage1_steps: int = adjustable(1500)  # while stage 1 lasts
    stage2_steps: int = adjustable(0)
    disc_start: int = 0  # steps of stage 2 before the discriminators
    disc_ramp: int = 0  # steps over which gamma rises from 0 to 1; 0: at once [paper]
    adaptive_gan: bool = False  # gamma by VQGAN's rule: the adversarial gradient is as large as the others'
    ema: float = 0.0  # decay per step of the weights that are averaged in stage 2; 0: no average
    disc_width: int = 64  # channels of their first layer
    disc_layers: int = 3  # of stride 2
    batch_size: int = 4
    betas: tuple[float, float] = (0.5, 0.9)  # [PVDM] of Adam
    warmup_steps: int = 0
    modality_dropout: float = 0.0  # share of training clips in which one stream is silent or black
    loader_workers: int = runtime(2)
    checkpoint_every: int = adjustable(500)
    eval_every: int = adjustable(250)
    # Steps between measurements of each loss term's share in the gradient; 0: never.
    gradient_share_every: int = adjustable(100)
    checkpoint_activations: bool = runtime(False)  # less memory, a third more work

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in (*_STEPS, "gradient_share_every"):
            if not getattr(self, name) >= 0:
                raise TrainingError(f"{name} must be at least 0, not {getattr(self, name)}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise TrainingError(f"betas must be two numbers from 0 to below 1, not {self.betas}")
        if not 0 <= self.ema < 1:
            raise TrainingError(f"ema must be at least 0 and below 1, not {self.ema}")
        if self.last_step <= 0:
            raise TrainingError(
                f"stage1_steps = {self.stage1_steps} and `stage2_steps` = {self.stage2_steps}: nothing is "
                f"trained"
            )

    @property
    def last_step(self) -> int:
        return self.stage1_steps + self.stage2_steps

    def refuse_another_past(self, begun: MDSATrainingOptions, step: int) -> None:
        """Raises TrainingError also if stage 2, which has begun, would begin at another step."""
        super().refuse_another_past(begun, step)
        if begun.stage1_steps != self.stage1_steps and step > min(begun.stage1_steps, self.stage1_steps):
            raise TrainingError(
                f"stage1_steps = {self.stage1_steps}: {step} steps are done with `stage1_steps` = "
                f"{begun.stage1_steps}; it can change while stage 1 lasts. `stage2_steps` may rise"
            )


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
