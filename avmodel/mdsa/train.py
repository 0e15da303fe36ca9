"""Trains the MDSA on clip shards, both stages in one run (paper section 4.1; docs/model.md 3).

    steps   0 ............. stage1_steps .......................... stage1_steps + stage2_steps
            L1 + LPIPS      | + KL, drawn latents | + discriminators, from stage1_steps + disc_start on

Each step is one step of the autoencoder and then, once they are on, one of the discriminators. In OUT:

    mdsa.pt         config, spec, weights, step: what the other commands take
    state.pt        weights and optimizers: what the same command resumes from
    metrics.jsonl   and tensorboard/: losses, PSNR on clips held out by source, saturated latents, pictures
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from avmodel.config import MDSAConfig, with_added_fields
from avmodel.data import ClipBatch, ClipData, to_model
from avmodel.mdsa.checkpoint import mdsa_payload, weights_hash
from avmodel.mdsa.discriminators import Discriminators
from avmodel.mdsa.evaluation import evaluate
from avmodel.mdsa.losses import DiscriminatorStep, gamma_at, generator_loss, random_frames
from avmodel.mdsa.lpips import load_lpips
from avmodel.mdsa.model import MDSA, Clips
from avmodel.mdsa.options import MDSATrainingOptions
from avmodel.training.checkpoints import entry, load_optimizer, load_weights, save_checkpoint
from avmodel.training.loop import cool_down, set_learning_rate, warm_up
from avmodel.training.machine import DistributedContext, exchange_gradients
from avmodel.training.options import TrainingEnd, identity_of
from avmodel.training.source import choice_identity, shards_identity
from avmodel.training.trainer import Trainer, run_training

STATE_KIND = "mdsa training state"
SILENCE = -1.0  # of a mel stack, and black of a picture


@dataclass(frozen=True, kw_only=True)
class MDSAResult(TrainingEnd):
    psnr_v: float | None  # dB; None for a stream that the model lacks, or without an evaluation in this run
    psnr_a: float | None
    is_held_out: bool  # PSNR is of clips whose sources were held out; else of clips trained on
    saturated: dict[str, float]  # by plane: the share of a latent's values that tanh has at the edge


def train_mdsa(options: MDSATrainingOptions) -> MDSAResult:
    """Trains, or resumes, to the last step or a signal.

    Raises:
        TrainingError, ConfigError, ShardError, CheckpointError, WeightsError: the message says what is wrong.
        OSError: the machine is at fault, as with a full disk.
    """
    trainer, end = run_training(options, options.steps, lambda context: open_trainer(options, context))
    return MDSAResult(
        **vars(end),
        psnr_v=trainer.last.psnr.get("v"),
        psnr_a=trainer.last.psnr.get("a"),
        is_held_out=bool(len(trainer.held_out)),
        saturated=trainer.last.saturated,
    )


def open_trainer(options: MDSATrainingOptions, context: DistributedContext) -> MDSATrainer:
    data = ClipData(options.clips, select=options.select, shares=options.shares, on_damage=options.on_damage)
    options.model.check_spec(data.spec)
    return MDSATrainer(options, context, data)


@dataclass
class _Last:
    """What the last evaluation of this run found."""

    psnr: dict[str, float] = field(default_factory=dict)
    saturated: dict[str, float] = field(default_factory=dict)


class MDSATrainer(Trainer):
    state_kind, unit = STATE_KIND, "clips"
    options: MDSATrainingOptions

    def __init__(self, options: MDSATrainingOptions, context: DistributedContext, data: ClipData) -> None:
        self.data = data
        self.training, self.held_out = data.split_by_source(options.holdout)
        super().__init__(options, context, self.training, batches_per_step=options.accumulate)
        torch.manual_seed(options.seed)
        self.model = MDSA(options.model, checkpoint_activations=options.checkpoint_activations)
        self.model.to(context.device)
        self.discriminators = _discriminators(options, context)
        self.lpips = load_lpips(options.lpips).to(context.device) if options.lpips else None
        adam = {"lr": options.lr, "betas": (0.5, 0.9), "fused": context.on_gpu}
        self.optimizer = torch.optim.Adam(self.model.parameters(), **adam)
        # As a group, which may be empty: a model may train without discriminators.
        judges = {"params": list(self.discriminators.parameters())}
        self.d_optimizer = torch.optim.Adam([judges], **adam)
        self.last = _Last()
        self._forward: nn.Module | None = None  # made at the first step
        if options.compile and context.on_gpu:
            self.model.compile_layers()

    # --- resuming ---

    def identity(self) -> dict[str, Any]:
        fields = identity_of(self.options)
        if self.options.cooldown_steps:  # the last step decides the rates before it
            fields["stage2_steps"] = self.options.stage2_steps
        if self.lpips is not None:
            fields["lpips weights"] = weights_hash(self.lpips.state_dict())
        return fields | {
            "processes": self.context.world,
            **choice_identity(self.data),
            "clips' fingerprint": self.data.fingerprint,
            "number of clips": len(self.data),
            "clips": shards_identity(self.data.index),
        }

    def upgraded(self, identity: dict[str, Any]) -> dict[str, Any]:
        """Version 0.1 wrote the name of the LPIPS backbone, or 'none', in the place of the config, and knew
        fewer fields of the model."""
        if isinstance(identity.get("model"), dict):
            identity = identity | {"model": with_added_fields(MDSAConfig, identity["model"])}
        lpips = identity.get("lpips")
        if not isinstance(lpips, str):
            return identity
        return identity | {"lpips": None if lpips == "none" else {"backbone": lpips}}

    def state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "discriminators": self.discriminators.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "d_optimizer": self.d_optimizer.state_dict(),
        }

    def load_state(self, state: dict[str, Any], path: Path) -> None:
        load_weights(self.model, entry(state, "model", dict, path), path)
        load_weights(self.discriminators, entry(state, "discriminators", dict, path), path)
        load_optimizer(self.optimizer, entry(state, "optimizer", dict, path), path)
        load_optimizer(self.d_optimizer, entry(state, "d_optimizer", dict, path), path)

    def save_model(self) -> None:
        save_checkpoint(self.out / "mdsa.pt", mdsa_payload(self.model, self.data.spec, self.step))

    # --- a step ---

    def _start_stage(self) -> None:
        """Readies the autoencoder and the discriminators as the stage of this step calls them.

        DDP is made anew for each stage: it must know which parameters have gradients.
        """
        if self.step < self.options.stage1_steps:
            self.model.freeze_logvar()
        elif self.step == self.options.stage1_steps:
            self.model.start_logvar()
        self._forward, self._disc_forward = self.context.parallel(self.model), self.discriminators
        if self.options.model.adversarial:
            self._disc_forward = self.context.parallel(self.discriminators)

    def train_step(self) -> dict[str, Tensor]:
        """One step of the autoencoder and, once they are on, one of the discriminators."""
        options = self.options
        batches = self.next_batches()
        if self._forward is None or self.step == options.stage1_steps:
            self._start_stage()
        rate = options.lr * warm_up(self.step, options.warmup_steps)
        rate *= cool_down(self.step, options.cooldown_steps, options.steps)
        generator = self.context.generator(options.seed, self.step)
        gamma = self._gamma()
        terms: dict[str, Tensor] = {}
        passes = []
        if not self.guard.check(*(batch.mel for batch in batches)):
            return {}
        for i, batch in enumerate(batches):
            clips = self._clips(batch, generator)
            frames = random_frames(options.batch_size, options.model.frames, generator)
            with exchange_gradients(self._forward, now=i == options.accumulate - 1):
                x_hat = self._autoencoder_pass(clips, frames, gamma, generator, terms)
            passes.append((clips, x_hat, frames))
        trained = [(self.optimizer, self.model)]
        if gamma:  # on reconstructions that are made already: it is the same before the autoencoder's step
            for i, (clips, x_hat, frames) in enumerate(passes):
                with exchange_gradients(self._disc_forward, now=i == len(passes) - 1):
                    self._discriminator_pass(clips, x_hat, frames, terms)
            trained.append((self.d_optimizer, self.discriminators))
        return terms if self._apply(trained, rate, terms) else {}

    def _gamma(self) -> float:
        if not self.options.model.adversarial:
            return 0.0
        return gamma_at(self.step, self.options.stage1_steps + self.options.disc_start)

    def _clips(self, batch: ClipBatch, generator: torch.Generator) -> Clips:
        """A batch on the device as the model sees it, some clips with a silent or black stream."""
        batch = ClipBatch(*(part.to(self.context.device, non_blocking=True) for part in batch))
        clips = to_model(batch, self.options.model.size)
        share = self.options.modality_dropout
        if share:
            draw = torch.rand(len(batch.mel), generator=generator, device=self.context.device)
            clips["a"][draw < share / 2] = SILENCE
            clips["v"][draw > 1 - share / 2] = SILENCE
        return {stream: clips[stream] for stream in self.options.model.channels}  # in the latent's order

    def _autoencoder_pass(
        self, clips: Clips, frames: Tensor, gamma: float, generator: torch.Generator, terms: dict[str, Tensor]
    ) -> Clips:
        """Adds one micro-batch's gradients and its terms; returns its reconstruction, detached."""
        options, in_stage2 = self.options, self.step >= self.options.stage1_steps
        share = 1 / options.accumulate
        with self.context.autocast():
            x_hat, posterior = self._forward(clips, sample=in_stage2, generator=generator)
            total = torch.zeros((), device=self.context.device)
            for i, stream in enumerate(clips):
                loss, parts = generator_loss(
                    clips[stream],
                    x_hat[stream].float(),
                    frames=frames,
                    weights=options.loss,
                    kl=options.model.kl if in_stage2 else "none",
                    posterior=posterior.of_stream(i),
                    lpips=self.lpips,
                    gamma=gamma,
                    discriminators=self.discriminators[stream] if gamma else None,
                )
                total = total + loss
                _add(terms, {f"{stream}/{name}": value for name, value in parts.items()}, share)
        (total * share).backward()
        _add(terms, {"loss": total.detach()}, share)
        return {stream: value.detach().float() for stream, value in x_hat.items()}

    def _discriminator_pass(
        self, clips: Clips, x_hat: Clips, frames: Tensor, terms: dict[str, Tensor]
    ) -> None:
        share = 1 / self.options.accumulate
        with self.context.autocast():
            total, parts = self._disc_forward(clips, x_hat, frames)
        (total * share).backward()
        _add(terms, parts | {"loss_d": total.detach()}, share)

    def _apply(
        self, trained: list[tuple[torch.optim.Optimizer, nn.Module]], rate: float, terms: dict[str, Tensor]
    ) -> bool:
        """Clips the gradients and steps. Nothing is stepped if a loss or a gradient is not finite."""
        norms = [nn.utils.clip_grad_norm_(m.parameters(), self.options.clip_grad) for _, m in trained]
        good = self.guard.check(*norms, *terms.values())
        for optimizer, _ in trained:
            if good:
                set_learning_rate(optimizer, rate)
                optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return good

    def evaluate(self) -> None:
        """PSNR on held-out clips (on training clips if none is held out), and a picture of the first."""
        if not self.context.is_first:
            return
        data, kind = (self.held_out, "held_out") if len(self.held_out) else (self.training, "training")
        found = evaluate(
            self.model,
            data,
            self.context,
            clips=self.options.eval_clips,
            batch_size=self.options.batch_size,
        )
        self.last = _Last(found.psnr, found.saturated)
        self.log.picture(self.step, kind, found.picture)
        scalars = {f"{kind}/psnr_{stream}": value for stream, value in found.psnr.items()}
        self.log.scalars(self.step, scalars | {f"saturated/{p}": s for p, s in found.saturated.items()})


def _discriminators(options: MDSATrainingOptions, context: DistributedContext) -> nn.Module:
    """Those of each stream; none where the model trains without."""
    streams = options.model.streams if options.model.adversarial else ""
    step = DiscriminatorStep(
        {
            stream: Discriminators(
                channels=options.model.channels[stream], ndf=options.disc_width, n_layers=options.disc_layers
            )
            for stream in streams
        }
    )
    if context.world > 1 and context.on_gpu:
        step = nn.SyncBatchNorm.convert_sync_batchnorm(step)
    return step.to(context.device)


def _add(terms: dict[str, Tensor], new: dict[str, Tensor], share: float) -> None:
    for name, value in new.items():
        terms[name] = terms.get(name, 0) + value * share
