"""Trains the MDSA on clip shards, both stages in one run (paper section 4.1; docs/model.md 3).

    steps   0 ............. stage1_steps .......................... stage1_steps + stage2_steps
            L1 + LPIPS      | + KL, drawn latents | + discriminators, from stage1_steps + disc_start on

Each step is one step of the autoencoder and then, once they are on, one of the discriminators. In OUT:

    mdsa.pt         config, spec, weights, step: what the other commands take
    mdsa-best.pt    the same, of the evaluation with the highest PSNR
    state.pt        weights and optimizers: what the same command resumes from
    metrics.jsonl   and tensorboard/: losses, PSNR on clips held out by source, saturated latents, pictures
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor, nn

from avmodel.config import CHANNELS, KlTerm, MDSAConfig, with_added_fields
from avmodel.data import ClipBatch, ClipData, to_model
from avmodel.info import mdsa_training_flops
from avmodel.mdsa.checkpoint import KIND, mdsa_payload, weights_hash
from avmodel.mdsa.discriminators import Discriminators
from avmodel.mdsa.evaluation import evaluate
from avmodel.mdsa.gradient_shares import GradientShares
from avmodel.mdsa.losses import DiscriminatorStep, GeneratorLoss, gamma_at, generator_loss, random_frames
from avmodel.mdsa.lpips import load_lpips
from avmodel.mdsa.model import MDSA, Clips, Posterior
from avmodel.mdsa.options import LossWeights, MDSATrainingOptions
from avmodel.training.checkpoints import check_weights, entry, load_checkpoint, load_optimizer, load_weights
from avmodel.training.machine import DistributedContext, exchange_gradients
from avmodel.training.optim import Ema, ModelOptimizer, apply_step, clip_gradients
from avmodel.training.options import TrainingEnd, identity_of
from avmodel.training.source import choice_identity, shards_identity
from avmodel.training.trainer import Trainer, run_training
from avmodel.training.transfer import resample_positions, take_weights

STATE_KIND = "mdsa training state"
_BY_STREAM = ("encoders", "decoders", *CHANNELS)  # modules that hold one module per stream
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
    trainer, end = run_training(options, lambda context: open_trainer(options, context))
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
    state_kind, model_file, unit = STATE_KIND, "mdsa.pt", "clips"
    model_kind, falling = KIND, ("v/l1", "a/l1")
    options: MDSATrainingOptions

    def __init__(self, options: MDSATrainingOptions, context: DistributedContext, data: ClipData) -> None:
        self.data = data
        self.training, self.held_out = data.split_by_source(options.holdout)
        super().__init__(options, context, self.training)
        torch.manual_seed(options.seed)
        self.model = MDSA(options.model, checkpoint_activations=options.checkpoint_activations)
        self.model.to(context.device)
        self.discriminators = _discriminators(options, context)
        self.lpips = load_lpips(options.lpips).to(context.device) if options.lpips else None
        adam = partial(torch.optim.Adam, lr=options.lr, betas=options.betas, fused=True)
        self.optimizer = ModelOptimizer(
            self.model, options.optimizer, adam, lr=options.lr, muon_lr=options.muon_lr
        )
        # As a group, which may be empty: a model may train without discriminators.
        judges = {"params": list(self.discriminators.parameters())}
        self.d_optimizer = adam([judges])
        self.ema: Ema | None = None  # from stage 2 on
        self.last = _Last()
        self._forward: nn.Module = self.model  # made anew at the first step of a stage
        self._disc_forward: nn.Module = self.discriminators
        self._is_ready = False
        if options.compile and context.on_gpu:
            self.model.compile_layers()

    # --- resuming ---

    def identity(self) -> dict[str, Any]:
        fields = identity_of(self.options)
        if self.lpips is not None:
            fields["lpips weights"] = weights_hash(self.lpips.state_dict())
        return fields | {
            **choice_identity(self.data),
            "clips' fingerprint": self.data.fingerprint,
            "number of clips": len(self.data),
            "clips": shards_identity(self.data.index),
        }

    @classmethod
    def upgraded(cls, begun: dict[str, Any]) -> dict[str, Any]:
        """Version 0.1 wrote the name of the LPIPS backbone, or 'none', in the place of the config, and knew
        fewer fields of the model."""
        if isinstance(begun.get("model"), dict):
            begun = begun | {"model": with_added_fields(MDSAConfig, begun["model"])}
        lpips = begun.get("lpips")
        if not isinstance(lpips, str):
            return begun
        return begun | {"lpips": None if lpips == "none" else {"backbone": lpips}}

    def state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "ema": self.ema.weights if self.ema else {},
            "discriminators": self.discriminators.state_dict(),
            **self.optimizer.state(),
            "d_optimizer": self.d_optimizer.state_dict(),
        }

    def load_state(self, state: dict[str, Any], path: Path) -> None:
        load_weights(self.model, entry(state, "model", dict, path), path)
        load_weights(self.discriminators, entry(state, "discriminators", dict, path), path)
        self.optimizer.load(state, path)
        load_optimizer(self.d_optimizer, entry(state, "d_optimizer", dict, path), path)
        if self.options.ema and self.step > self.options.stage1_steps:
            averaged = entry(state, "ema", dict, path)
            self.ema = Ema(self.model, self.options.ema)
            check_weights(self.ema.weights, averaged, path)
            self.ema.load(averaged, self.step - self.options.stage1_steps)

    def start_from(self, path: Path) -> str:
        weights = entry(load_checkpoint(path, KIND), "weights", dict, path)
        return take_weights(self.model, weights, path, resample_positions)

    def model_payload(self) -> dict[str, Any]:
        averaged = self.ema.weights if self.ema else None
        return mdsa_payload(self.model, self.data.spec, self.step, averaged=averaged)

    # --- a step ---

    def _start_stage(self) -> None:
        """Readies the autoencoder and the discriminators as the stage of this step calls them.

        DDP is made anew for each stage: it must know which parameters have gradients.
        """
        if self.step < self.options.stage1_steps:
            self.model.freeze_logvar()
        elif self.step == self.options.stage1_steps:
            if self.options.stage1_steps or not self.has_started_from_weights:
                self.model.start_logvar()  # else a trained log-variance is kept
            self.ema = Ema(self.model, self.options.ema) if self.options.ema else None
        self._forward, self._is_ready = self.context.parallel(self.model), True
        if self.options.model.adversarial:
            self._disc_forward = self.context.parallel(self.discriminators)

    def train_step(self, batches: list[ClipBatch]) -> tuple[dict[str, Tensor], Tensor]:
        """One step of the autoencoder and, once they are on, one of the discriminators.

        Args:
            batches: micro-batches, on the CPU: frames uint8 (B,T,H,W,RGB) and mel stacks (B,T,n_mels,W).

        Returns:
            The scalars by name, () each, means over the micro-batches; and the guard's flag, () float32: 1 if
            the step was left out. All on the device, which is not waited for.
        """
        options = self.options
        if not self._is_ready or self.step == options.stage1_steps:
            self._start_stage()
        gamma = self._gamma()
        scalars: dict[str, Tensor] = {}
        passes = []
        for i, batch in enumerate(batches):
            generator = self.context.generator(options.seed, self.step, self.number_of(i))
            clips = self._clips(batch, generator)
            frames = random_frames(self.micro_batch, options.model.frames, generator)
            with exchange_gradients(self._forward, now=i == len(batches) - 1):
                x_hat = self._autoencoder_pass(clips, frames, gamma, generator, scalars)
            passes.append((clips, x_hat, frames))
        if gamma:  # on reconstructions that are made already: it is the same before the autoencoder's step
            for i, (clips, x_hat, frames) in enumerate(passes):
                with exchange_gradients(self._disc_forward, now=i == len(passes) - 1):
                    self._discriminator_pass(clips, x_hat, frames, scalars)
        bad = self._apply(scalars, with_discriminators=bool(gamma))
        return scalars | {"gamma": torch.full((), gamma, device=self.context.device)}, bad

    def _gamma(self) -> float:
        options = self.options
        if not options.model.adversarial:
            return 0.0
        return gamma_at(self.step, options.stage1_steps + options.disc_start, options.disc_ramp)

    def _kl(self) -> tuple[KlTerm, LossWeights]:
        """Which KL term this step has, and the weights of all terms."""
        weights, kl = self.options.loss, self.options.model.kl
        if self.step >= self.options.stage1_steps:
            return kl, weights
        return kl if weights.kl_stage1 else "none", replace(weights, kl=weights.kl_stage1)

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
        share = 1 / self.options.accumulate
        self.flops += len(frames) * mdsa_training_flops(self.options.model)
        with self.context.autocast():
            in_stage2 = self.step >= self.options.stage1_steps
            x_hat, posterior = self._forward(clips, sample=in_stage2, generator=generator)
            losses = {
                stream: self._loss(stream, x, x_hat[stream].float(), frames, posterior.of_stream(i), gamma)
                for i, (stream, x) in enumerate(clips.items())
            }
        total = torch.stack([loss.total for loss in losses.values()]).sum()
        shares = self._gradient_shares(losses, posterior)
        (total * share).backward()
        for stream, loss in losses.items():
            _add(terms, {f"{stream}/{name}": value for name, value in loss.terms.items()}, share)
        _add(terms, {"loss": total.detach()} | (shares.read(share) if shares else {}), share)
        return {stream: value.detach().float() for stream, value in x_hat.items()}

    def _loss(
        self,
        stream: str,
        x: Tensor,
        x_hat: Tensor,
        frames: Tensor,
        posterior: tuple[Tensor, Tensor],
        gamma: float,
    ) -> GeneratorLoss:
        """The loss of one stream in this step. x, x_hat (B,C,T,S,S); mean and logvar (B,C,3,rows,columns)."""
        kl, weights = self._kl()
        return generator_loss(
            x,
            x_hat,
            frames=frames,
            weights=weights,
            kl=kl,
            posterior=posterior,
            lpips=self.lpips,
            gamma=gamma,
            discriminators=self.discriminators[stream] if gamma else None,
            last_layer=self.model.last_layer(stream) if self.options.adaptive_gan else None,
        )

    def _gradient_shares(
        self, losses: dict[str, GeneratorLoss], posterior: Posterior
    ) -> GradientShares | None:
        """Of this pass, before its backward; None in the steps that are not measured."""
        every = self.options.gradient_share_every
        if not every or (self.step + 1) % every:
            return None
        weighted = {stream: loss.weighted for stream, loss in losses.items()}
        layers = {stream: self.model.last_layer(stream) for stream in losses}
        return GradientShares(weighted, layers, posterior)

    def _discriminator_pass(
        self, clips: Clips, x_hat: Clips, frames: Tensor, terms: dict[str, Tensor]
    ) -> None:
        share = 1 / self.options.accumulate
        with self.context.autocast():
            total, parts = self._disc_forward(clips, x_hat, frames)
        (total * share).backward()
        _add(terms, parts | {"loss_d": total.detach()}, share)

    def _apply(self, scalars: dict[str, Tensor], *, with_discriminators: bool) -> Tensor:
        """Clips the gradients and steps, unless a loss or a gradient is not finite; then nothing is stepped.
        Adds the gradients' norms to the scalars. Returns the guard's flag."""
        options, losses = self.options, [scalars["loss"]]
        norms = clip_gradients(self.model, options.clip_grad, _part)
        scalars |= {"gradient_norm": norms.total} | {f"gradient/{n}": v for n, v in norms.parts.items()}
        totals = [norms.total]
        if with_discriminators:
            d_norms = clip_gradients(self.discriminators, options.clip_grad, _part)
            scalars |= {f"gradient/d/{n}": v for n, v in d_norms.parts.items()}
            totals.append(d_norms.total)
            losses.append(scalars["loss_d"])
        bad = self.guard.check(*losses, *totals)
        share = self.rate_share(options.warmup_steps)
        self.optimizer.step(share, bad)
        if with_discriminators:
            apply_step(self.d_optimizer, options.lr * share, bad)
        if self.ema is not None:
            self.ema.update(self.model)
        return bad

    def score(self) -> float | None:
        """PSNR on held-out clips (on training clips if none is held out), and a picture of the first."""
        data, kind = (self.held_out, "held_out") if len(self.held_out) else (self.training, "training")
        with self.ema.swapped_into(self.model) if self.ema else nullcontext():
            found = evaluate(
                self.model, data, self.context, clips=self.options.eval_clips, batch_size=self.micro_batch
            )
        self.last = _Last(found.psnr, found.saturated)
        self.log.picture(self.step, kind, found.picture)
        scalars = {f"{kind}/psnr_{stream}": value for stream, value in found.psnr.items()}
        self.log.scalars(self.step, scalars | {f"saturated/{p}": s for p, s in found.saturated.items()})
        self.watch.saturation(self.step, found.saturated)
        shown = [f"PSNR-{stream.upper()} {value:.2f} dB" for stream, value in found.psnr.items()]
        edges = ", ".join(f"{plane} {100 * share:.0f} %" for plane, share in found.saturated.items())
        self.print_evaluation(f"{', '.join(shown)} ({kind.replace('_', '-')}); at the edge: {edges}")
        return mean(found.psnr.values()) if kind == "held_out" else None


def _part(name: str) -> str:
    """The part of the autoencoder or of the discriminators that a parameter belongs to: 'encoders.v', 'gcm',
    'v.d2'."""
    first, second = name.split(".")[:2]
    return f"{first}.{second}" if first in _BY_STREAM else first


def _discriminators(options: MDSATrainingOptions, context: DistributedContext) -> DiscriminatorStep:
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
        nn.SyncBatchNorm.convert_sync_batchnorm(step)  # in place: `step` itself is none
    return step.to(context.device)


def _add(terms: dict[str, Tensor], new: dict[str, Tensor], share: float) -> None:
    for name, value in new.items():
        terms[name] = terms.get(name, 0) + value * share
