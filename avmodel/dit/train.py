"""Trains the STDiT on cached latents by reflected flow matching (paper section 3.3; docs/model.md 3-5).

Each step: z1 from the shards, eps and t drawn, v(z_t, t) regressed on z1 - eps. In OUT:

    dit.pt          config, latents' header, texts, averaged weights (EMA), step: what `avmodel sample` takes
    state.pt        weights and the optimizer: what the same command resumes from
    metrics.jsonl   and tensorboard/: loss, loss by t, pictures of samples
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from avmodel.config import STDiTConfig, with_added_fields
from avmodel.data import ClipBatch, LatentData, to_model
from avmodel.dit.checkpoint import check_made_by, dit_payload
from avmodel.dit.flow import draw_source, draw_times, flow_loss, solve
from avmodel.dit.guidance import guided
from avmodel.dit.model import Captions, STDiT
from avmodel.dit.options import DiTTrainingOptions
from avmodel.dit.text import texts_of_latents
from avmodel.mdsa.checkpoint import Codec, load_mdsa
from avmodel.pictures import sheet, strips
from avmodel.training.checkpoints import check_weights, entry, load_optimizer, load_weights, save_checkpoint
from avmodel.training.loop import Ema, set_learning_rate, warm_up
from avmodel.training.machine import DistributedContext
from avmodel.training.options import TrainingEnd, identity_of
from avmodel.training.source import choice_identity, shards_identity
from avmodel.training.trainer import Trainer, run_training

STATE_KIND = "dit training state"
T_BUCKETS = 4  # of the loss by t
PICTURED = 4  # samples in a picture
PICTURE_STEPS = 20


def train_dit(options: DiTTrainingOptions) -> TrainingEnd:
    """Trains, or resumes, to the last step or a signal.

    Raises:
        TrainingError, ConfigError, ShardError, CheckpointError, TextError: the message says what is wrong.
        OSError: the machine is at fault, as with a full disk.
    """

    def open_trainer(context: DistributedContext) -> DiTTrainer:
        data = LatentData(
            options.latents, select=options.select, shares=options.shares, on_damage=options.on_damage
        )
        return DiTTrainer(options, context, data)

    return run_training(options, options.steps, open_trainer)[1]


class DiTTrainer(Trainer):
    state_kind, unit = STATE_KIND, "samples"
    options: DiTTrainingOptions

    def __init__(self, options: DiTTrainingOptions, context: DistributedContext, data: LatentData) -> None:
        super().__init__(options, context, data, batches_per_step=1)
        self.data = data
        self.texts, self.model_config, self._texts_identity = texts_of_latents(
            data.index.outputs, options.model, keys=set(data.keys) if data.selections else None
        )
        self.codec = _codec(options, data, context)
        torch.manual_seed(options.seed)
        self.model = STDiT(self.model_config, data.layout).to(context.device)
        self.mask = data.layout.mask(context.device)
        self.ema = Ema(self.model, options.ema)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), options.lr, betas=(0.9, 0.999), weight_decay=0.0, fused=context.on_gpu
        )
        # Sums of losses by t, and their number.
        self._by_t = torch.zeros(2, T_BUCKETS, device=context.device)
        self._forward = context.parallel(self.model)
        if options.compile and context.on_gpu:
            self._forward = torch.compile(self._forward)

    # --- resuming ---

    def identity(self) -> dict[str, Any]:
        return identity_of(replace(self.options, model=self.model_config)) | {
            "processes": self.context.world,
            **choice_identity(self.data),
            "latents' fingerprint": self.data.fingerprint,
            "number of latents": len(self.data),
            "texts": self._texts_identity,
            "latents": shards_identity(self.data.index),
        }

    def upgraded(self, identity: dict[str, Any]) -> dict[str, Any]:
        """An earlier version knew fewer fields of the model."""
        if not isinstance(identity.get("model"), dict):
            return identity
        return identity | {"model": with_added_fields(STDiTConfig, identity["model"])}

    def state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "ema": self.ema.weights,
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state(self, state: dict[str, Any], path: Path) -> None:
        load_weights(self.model, entry(state, "model", dict, path), path)
        averaged = entry(state, "ema", dict, path)
        check_weights(self.ema.weights, averaged, path)
        self.ema.load(averaged, self.step - self.guard.skipped)
        load_optimizer(self.optimizer, entry(state, "optimizer", dict, path), path)

    def save_model(self) -> None:
        payload = dit_payload(self.model_config, self.ema.weights, self.data.encoder, self.texts, self.step)
        save_checkpoint(self.out / "dit.pt", payload)

    # --- a step ---

    def train_step(self) -> dict[str, Tensor]:
        options, context = self.options, self.context
        [batch] = self.next_batches()
        z1 = batch.latent.to(context.device, non_blocking=True).float()
        captions = Captions(*(part.to(context.device) for part in self.texts.captions(*batch[1:])))
        generator = context.generator(options.seed, self.step)
        eps = draw_source(tuple(z1.shape), generator)
        t = draw_times(len(z1), generator)
        drop = torch.rand(len(z1), generator=generator, device=context.device)
        drop = drop < self.model_config.caption_dropout

        def velocity(z: Tensor, at: Tensor) -> Tensor:
            with context.autocast():
                return self._forward(z, at, captions, drop)

        loss, per_sample = flow_loss(velocity, z1, eps, t, self.mask)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), options.clip_grad)
        good = self.guard.check(loss, norm)
        if good:
            set_learning_rate(self.optimizer, options.lr * warm_up(self.step, options.warmup_steps))
            self.optimizer.step()
            self.ema.update(self.model)
            self._count_by_t(t, per_sample)
        self.optimizer.zero_grad(set_to_none=True)
        return {"loss": loss.detach(), "gradient_norm": norm} if good else {}

    # --- what is logged ---

    def _count_by_t(self, t: Tensor, per_sample: Tensor) -> None:
        bucket = (t * T_BUCKETS).long().clamp(max=T_BUCKETS - 1)
        self._by_t[0].index_add_(0, bucket, per_sample)
        self._by_t[1].index_add_(0, bucket, torch.ones_like(per_sample))

    @torch.no_grad()
    def evaluate(self) -> None:
        """The loss by t since the last evaluation and, with an MDSA to decode them, a picture of samples."""
        if not self.context.is_first:
            return
        sums, counts = self._by_t.tolist()
        self.log.scalars(
            self.step,
            {f"loss_t/{i / T_BUCKETS:.2f}": sums[i] / counts[i] for i in range(T_BUCKETS) if counts[i]},
        )
        self._by_t.zero_()
        if self.codec is not None:
            self.log.picture(self.step, "samples", self._picture())

    def _picture(self) -> Tensor:
        """Samples of the averaged weights for the captions of the first clips: always the same noise."""
        batch = [self.data[i * len(self.data) // PICTURED] for i in range(PICTURED)]
        captions = self.texts.captions([b.labels for b in batch], [b.captions for b in batch])
        captions = Captions(*(part.to(self.context.device) for part in captions))
        generator = torch.Generator(self.context.device).manual_seed(self.options.seed)
        eps = draw_source((PICTURED, *self.data.layout.shape), generator)
        with self.ema.swapped_into(self.model), self.context.autocast():
            z = solve(guided(self.model, captions, 1.0), eps, steps=PICTURE_STEPS, mask=self.mask)
        frames, mel = self.codec.decode(z.cpu())
        return sheet(strips(to_model(ClipBatch(frames, mel), frames.shape[2])))


def _codec(options: DiTTrainingOptions, data: LatentData, context: DistributedContext) -> Codec | None:
    if options.mdsa is None:
        return None
    model, header = load_mdsa(options.mdsa)
    check_made_by(data.encoder, header, f"mdsa = {options.mdsa}:", f"latents = {data.name}")
    return Codec(model, header, device=context.device, batch_size=PICTURED, compile=False)
