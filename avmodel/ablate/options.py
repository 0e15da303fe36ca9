"""The options of an ablation, and its variants.

Light: the command line reads the defaults here without torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from avmodel.config import DEFAULT_PRESET, MDSA_PRESETS, ConfigError, MDSAConfig
from avmodel.mdsa.options import LossWeights, MDSATrainingOptions
from avmodel.training.errors import TrainingError
from avmodel.training.options import Device, Optimizer
from avprep.credentials import require_no_credentials_in

FULL = "full"
# What each variant changes in the full model. Tables 5 and 6 of the paper; positions are not in them.
VARIANTS: dict[str, dict[str, Any]] = {
    FULL: {},
    "no-mt-self-attn": {"mt_self_attn": False},
    "no-gcm-attn": {"gcm_attn": False},
    "no-bi-block": {"bi_block": False},
    "no-kl": {"kl": "none"},
    "no-adversarial": {"adversarial": False},
    "video-only": {"streams": "v"},
    "audio-only": {"streams": "a"},
    "rotary-positions": {"plane_positions": "rotary"},
    "learned-positions": {"plane_positions": "learned"},
}


@dataclass(frozen=True, kw_only=True)
class AblationOptions:
    """What is trained, and for how long.

    Raises:
        TrainingError: a value out of range, or an unknown variant.
        ConfigError: a variant that the preset cannot have.
    """

    clips: Path  # an output of `avprep clip`
    out: Path
    preset: str = DEFAULT_PRESET
    variants: tuple[str, ...] = field(default=())  # (): all that the preset can have
    seeds: int = 3
    stage1_steps: int = 400
    stage2_steps: int = 400  # with the KL term and the discriminators
    batch_size: int = MDSATrainingOptions.batch_size
    lr: float = 1e-3
    optimizer: Optimizer = MDSATrainingOptions.optimizer
    muon_lr: float = MDSATrainingOptions.muon_lr
    mse_weight: float = LossWeights.mse
    disc_width: int = MDSATrainingOptions.disc_width
    holdout: float = 0.2  # share of sources that are measured
    loader_workers: int = 1
    device: Device = "auto"

    def __post_init__(self) -> None:
        require_no_credentials_in(self)
        if self.seeds < 1:
            raise TrainingError(f"seeds must be at least 1, not {self.seeds}")
        unknown = [name for name in self.variants if name not in VARIANTS]
        if unknown:
            raise TrainingError(f"variants must be of {', '.join(VARIANTS)}; not {', '.join(unknown)}")
        if not 0 < self.holdout < 1:
            raise TrainingError(
                f"holdout must be above 0 and below 1, not {self.holdout}: clips are measured"
            )
        for name in self.variants:
            self.model_of(name)

    @property
    def trained(self) -> tuple[str, ...]:
        """The variants, the full model first: the others are compared with it."""
        chosen = self.variants or tuple(name for name in VARIANTS if self.why_not(name) is None)
        return (FULL, *(name for name in VARIANTS if name in chosen and name != FULL))

    def why_not(self, variant: str) -> str | None:
        """Why the preset cannot have a variant; None where it can."""
        try:
            self.model_of(variant)
        except ConfigError as error:
            return str(error)
        return None

    def model_of(self, variant: str) -> MDSAConfig:
        return replace(MDSA_PRESETS[self.preset], **VARIANTS[variant])

    def training_of(self, variant: str, seed: int) -> MDSATrainingOptions:
        """The training of one cell."""
        steps = self.stage1_steps + self.stage2_steps
        return MDSATrainingOptions(
            clips=self.clips,
            out=self.cell(variant, seed),
            model=self.model_of(variant),
            loss=LossWeights(mse=self.mse_weight),
            lpips=None,
            stage1_steps=self.stage1_steps,
            stage2_steps=self.stage2_steps,
            batch_size=self.batch_size,
            lr=self.lr,
            optimizer=self.optimizer,
            muon_lr=self.muon_lr,
            disc_width=self.disc_width,
            holdout=self.holdout,
            seed=seed,
            eval_every=max(1, steps),
            checkpoint_every=max(1, min(500, steps)),
            loader_workers=self.loader_workers,
            device=self.device,
        )

    def cell(self, variant: str, seed: int) -> Path:
        return self.out / f"seed-{seed}" / variant
