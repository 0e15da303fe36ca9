"""Trains the STDiT on cached latents by reflected flow matching (paper section 3.3; docs/model.md 3-5).

Each step: z1 from the shards, eps and t drawn, v(z_t, t) regressed on z1 - eps. In OUT:

    dit.pt          config, latents' header, texts, averaged weights (EMA), step: what `avmodel sample` takes
    dit-best.pt     the same, of the evaluation with the lowest held-out loss
    state.pt        weights and the optimizer: what the same command resumes from
    metrics.jsonl   and tensorboard/: loss, loss by t, held-out loss, pictures of samples
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from avmodel.config import STDiTConfig, with_added_fields
from avmodel.data import ClipBatch, LatentBatch, LatentData, collate, to_model
from avmodel.dit.checkpoint import KIND, check_made_by, dit_payload, labels_of
from avmodel.dit.flow import (
    SOURCE_STD,
    draw_source,
    draw_stream_times,
    draw_times,
    flow_loss,
    solve,
)
from avmodel.dit.guidance import guided
from avmodel.dit.model import Captions, STDiT
from avmodel.dit.options import DiTTrainingOptions
from avmodel.dit.text import LabelTexts, Texts, label_sets, texts_of_latents, trimmed
from avmodel.info import stdit_training_flops
from avmodel.mdsa.checkpoint import Codec, load_mdsa
from avmodel.pictures import sheet, strips
from avmodel.training.checkpoints import check_weights, entry, load_checkpoint, load_weights
from avmodel.training.errors import TrainingError
from avmodel.training.machine import DistributedContext, exchange_gradients
from avmodel.training.optim import Ema, ModelOptimizer, clip_gradients
from avmodel.training.options import TrainingEnd, identity_of
from avmodel.training.source import choice_identity, shards_identity
from avmodel.training.trainer import Trainer, run_training
from avmodel.training.transfer import only_equal_shapes, take_weights

STATE_KIND = "dit training state"
T_BUCKETS = 4  # of the loss by t
HELD_OUT = 2**40  # seeds the noise of held-out latents: no step
GOLDEN = (5**0.5 - 1) / 2  # multiples of it, modulo 1, are spread evenly however many are taken
SPREAD_OF = 64  # latents whose spread is looked at
PICTURED = 4  # samples in a picture
PICTURE_STEPS = 20


def train_dit(options: DiTTrainingOptions) -> TrainingEnd:
    """Trains, or resumes, to the last step or a signal.

    Raises:
        TrainingError, ConfigError, ShardError, CheckpointError, TextError: the message says what is wrong.
        OSError: the machine is at fault, as with a full disk.
    """
    # Not with the other checks: a resumed run takes its model from its state, so it is known only here.
    if options.shared_times != DiTTrainingOptions.shared_times and not options.model.stream_times:
        raise TrainingError(
            f"shared_times = {options.shared_times}: only a model with `stream_times` has others"
        )

    def open_trainer(context: DistributedContext) -> DiTTrainer:
        data = LatentData(
            options.latents, select=options.select, shares=options.shares, on_damage=options.on_damage
        )
        return DiTTrainer(options, context, data)

    return run_training(options, open_trainer)[1]


class Draws(NamedTuple):
    """What is drawn for the samples of a step or of a micro-batch."""

    eps: Tensor  # (B, C, P, rows, columns): noise
    t: Tensor  # (B,): times; (B, streams) for a model with `stream_times`
    drop: Tensor  # bool (B,): trained without its caption

    def part(self, first: int, end: int) -> Draws:
        return Draws(*(drawn[first:end] for drawn in self))


class LossByTime:
    """Means of the loss over intervals of t, kept on the device until they are read."""

    def __init__(self, device: torch.device) -> None:
        self._sums = torch.zeros(2, T_BUCKETS, device=device)  # of losses, and their number

    def add(self, t: Tensor, per_sample: Tensor) -> None:
        """t (B,) or (B, streams). Left out are losses that are not finite, and samples whose streams differ
        in t: the others compare with those of a model with one time."""
        counts = torch.isfinite(per_sample)
        if t.ndim == 2:
            counts, t = counts & (t == t[:, :1]).all(dim=1), t[:, 0]
        bucket = (t * T_BUCKETS).long().clamp(max=T_BUCKETS - 1)
        self._sums[0].index_add_(0, bucket, per_sample.masked_fill(~counts, 0))
        self._sums[1].index_add_(0, bucket, counts.float())

    def read(self, name: str) -> dict[str, float]:
        """The means since the last reading, as 'NAME/first t of the interval'."""
        sums, counts = self._sums.tolist()
        self._sums.zero_()
        return {f"{name}/{i / T_BUCKETS:.2f}": sums[i] / n for i, n in enumerate(counts) if n}


class DiTTrainer(Trainer):
    state_kind, model_file, unit = STATE_KIND, "dit.pt", "samples"
    model_kind, falling = KIND, ("loss",)
    options: DiTTrainingOptions

    def __init__(self, options: DiTTrainingOptions, context: DistributedContext, data: LatentData) -> None:
        self.data = data
        self.training, self.held_out = data.split_by_source(options.holdout)
        super().__init__(options, context, self.training)
        outputs = data.index.outputs
        self.texts, self.model_config, self._texts_identity = texts_of_latents(
            outputs, options.model, keys=set(data.keys) if data.selections else None
        )
        if isinstance(self.texts, LabelTexts):
            self.texts = LabelTexts(self.texts.counts, label_sets(outputs, self.training.keys))
        self.codec = _codec(options, data, context)
        torch.manual_seed(options.seed)
        self.model = STDiT(self.model_config, data.layout).to(context.device)
        self.mask = data.layout.mask(context.device)
        self.ema = Ema(self.model, options.ema)
        adam = partial(torch.optim.AdamW, betas=(0.9, 0.999), weight_decay=0.0, fused=True)
        self.optimizer = ModelOptimizer(
            self.model, options.optimizer, adam, lr=options.lr, muon_lr=options.muon_lr
        )
        self._by_t = LossByTime(context.device)
        if context.is_first:
            self.watch.spread(self.step, spread_of(self.training), of_noise=SOURCE_STD)
        self._parallel = context.parallel(self.model)
        self._forward: Callable[..., Tensor] = self._parallel
        if options.compile and context.on_gpu:
            self._forward = torch.compile(self._parallel)

    # --- resuming ---

    def identity(self) -> dict[str, Any]:
        return identity_of(replace(self.options, model=self.model_config)) | {
            **choice_identity(self.data),
            "latents' fingerprint": self.data.fingerprint,
            "number of latents": len(self.data),
            "texts": self._texts_identity,
            "latents": shards_identity(self.data.index),
        }

    @classmethod
    def upgraded(cls, begun: dict[str, Any]) -> dict[str, Any]:
        """Version 0.1 trained on all latents, and knew fewer fields of the model."""
        if isinstance(begun.get("model"), dict):
            begun = begun | {"model": with_added_fields(STDiTConfig, begun["model"])}
        return {"holdout": 0.0} | begun

    def state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "ema": self.ema.weights,
            **self.optimizer.state(),
        }

    def load_state(self, state: dict[str, Any], path: Path) -> None:
        load_weights(self.model, entry(state, "model", dict, path), path)
        averaged = entry(state, "ema", dict, path)
        check_weights(self.ema.weights, averaged, path)
        self.ema.load(averaged, self.step)
        self.optimizer.load(state, path)

    def start_from(self, path: Path) -> str:
        payload = load_checkpoint(path, KIND)
        weights = entry(payload, "weights", dict, path)
        fit = partial(_rows_by_label, labels_of(payload, path), self.texts)
        taken = take_weights(self.model, weights, path, fit)
        self.ema = Ema(self.model, self.options.ema)
        return taken

    def model_payload(self) -> dict[str, Any]:
        return dit_payload(self.model_config, self.ema.weights, self.data.encoder, self.texts, self.step)

    # --- a step ---

    def train_step(self, batches: list[LatentBatch]) -> tuple[dict[str, Tensor], Tensor]:
        """One step on all micro-batches.

        Args:
            batches: micro-batches, on the CPU: latents (B, C, P, rows, columns), with labels and captions.

        Returns:
            The loss and the gradient norms before clipping, by name, () each; and the guard's flag, ()
            float32: 1 if the step was left out. All on the device, which is not waited for.
        """
        options, context = self.options, self.context
        draws = self._draws(self.step)
        total = torch.zeros((), device=context.device)
        for i, batch in enumerate(batches):
            first = self.number_of(i) * self.micro_batch
            with exchange_gradients(self._parallel, now=i == len(batches) - 1):
                loss = self._pass(batch, draws.part(first, first + self.micro_batch))
                (loss / len(batches)).backward()
            total += loss.detach() / len(batches)
        norms = clip_gradients(self.model, options.clip_grad, _part)
        bad = self.guard.check(total, norms.total)
        self.optimizer.step(self.rate_share(options.warmup_steps or 0), bad)
        self.ema.update(self.model)
        parts = {f"gradient/{part}": norm for part, norm in norms.parts.items()}
        return {"loss": total, "gradient_norm": norms.total} | parts, bad

    def _draws(self, step: int) -> Draws:
        """Of all samples of the step: every process draws the same, and takes its own."""
        options, generator = self.options, self.context.generator(self.options.seed, step)
        eps = draw_source((options.batch_size, *self.data.layout.shape), generator)
        t = self._times(generator)
        drop = torch.rand(options.batch_size, generator=generator, device=self.context.device)
        return Draws(eps, t, drop < self.model_config.caption_dropout)

    def _times(self, generator: torch.Generator) -> Tensor:
        options = self.options
        if not self.model_config.stream_times:
            return draw_times(options.batch_size, generator, options.times)
        streams = len(self.data.layout.streams)
        return draw_stream_times(
            options.batch_size, streams, generator, options.times, shared=options.shared_times
        )

    def _pass(self, batch: LatentBatch, draws: Draws) -> Tensor:
        """The loss of a micro-batch."""
        z1 = batch.latent.to(self.context.device, non_blocking=True).float()
        captions = self._captions(batch)
        places = captions.tokens.shape[1]
        self.flops += len(z1) * stdit_training_flops(self.model_config, self.data.layout, places)

        def velocity(z: Tensor, at: Tensor) -> Tensor:
            with self.context.autocast():
                return self._forward(z, at, captions, draws.drop)

        loss, per_sample = flow_loss(velocity, z1, draws.eps, draws.t, self.mask)
        self._by_t.add(draws.t, per_sample)
        return loss

    def _captions(self, batch: LatentBatch) -> Captions:
        """On the device, as long as the longest of the batch."""
        captions = trimmed(self.texts.captions(batch.labels, batch.captions))
        return Captions(*(part.to(self.context.device, non_blocking=True) for part in captions))

    # --- what is logged ---

    @torch.no_grad()
    def score(self) -> float | None:
        """The loss by t since the last evaluation, the loss on held-out latents, and, with an MDSA to decode
        them, a picture of samples."""
        self.log.scalars(self.step, self._by_t.read("loss_t"))
        if self.codec is not None:
            self.log.picture(self.step, "samples", self._picture(self.codec))
        if not len(self.held_out):
            return None
        with self.ema.swapped_into(self.model):
            loss, by_t = self._held_out_loss()
            beside = {f"held_out/loss_given_{s}": self._held_out_loss(s)[0] for s in self._given_streams}
        self.log.scalars(self.step, {"held_out/loss": loss} | by_t | beside)
        self.print_evaluation(f"held-out loss {loss:.4f}")
        return -loss

    @property
    def _given_streams(self) -> tuple[str, ...]:
        """The streams that training also gives to the model."""
        return self.data.layout.streams if self.model_config.stream_times else ()

    def _held_out_loss(self, given: str | None = None) -> tuple[float, dict[str, float]]:
        """The loss on held-out latents, and by t. Noise and times are the same in every evaluation; times are
        spread evenly, and one for all streams; no caption is dropped.

        Args:
            given: 'v' or 'a': the loss of the other stream where this one is given; {} by t.
        """
        count, size = min(self.options.eval_clips, len(self.held_out)), self.micro_batch
        chosen = [i * len(self.held_out) // count for i in range(count)]
        by_t, losses = LossByTime(self.context.device), []
        for first in range(0, count, size):
            positions = chosen[first : first + size]
            batch = collate([self.held_out[i] for i in positions])
            z1 = batch.latent.to(self.context.device).float()
            eps = torch.stack([self._held_out_noise(i) for i in positions])
            t = (torch.arange(first, first + len(z1), device=self.context.device) + 0.5) * GOLDEN % 1
            if given is not None:
                t = torch.stack([torch.ones_like(t) if s == given else t for s in self._given_streams], dim=1)
            captions = self._captions(batch)
            # Eager: a compiled model would be compiled again for the last batch's size.
            with self.context.autocast(), torch.compiler.set_stance("force_eager"):
                found = flow_loss(partial(self.model, captions=captions), z1, eps, t, self.mask)
            by_t.add(t, found.per_sample)
            losses.append(found.per_sample)
        return float(torch.cat(losses).mean()), by_t.read("held_out/loss_t")

    def _held_out_noise(self, position: int) -> Tensor:
        generator = self.context.generator(self.options.seed, HELD_OUT, position)
        return draw_source(self.data.layout.shape, generator)

    def _picture(self, codec: Codec) -> Tensor:
        """Samples of the averaged weights for the captions of the first clips: always the same noise."""
        batch = collate([self.data[i * len(self.data) // PICTURED] for i in range(PICTURED)])
        captions = self._captions(batch)
        generator = torch.Generator(self.context.device).manual_seed(self.options.seed)
        eps = draw_source((PICTURED, *self.data.layout.shape), generator)
        with self.ema.swapped_into(self.model), self.context.autocast():
            z = solve(guided(self.model, captions, 1.0), eps, steps=PICTURE_STEPS, mask=self.mask)
        frames, mel = codec.decode(z.cpu())
        return sheet(strips(to_model(ClipBatch(frames, mel), frames.shape[2])))


def spread_of(data: LatentData) -> dict[str, float]:
    """The standard deviation of each plane's real values, over latents spread over the data."""
    count = min(SPREAD_OF, len(data))
    if not count:
        return {}
    latents = torch.stack([data[i * len(data) // count].latent for i in range(count)]).float()
    planes = zip(data.layout.planes, latents.unbind(2), data.layout.mask(), strict=True)
    return {name: float(values[:, :, mask].std()) for name, values, mask in planes}


def _part(name: str) -> str:
    """The part of the STDiT that a parameter belongs to: in the blocks, the branch, of all blocks."""
    parts = name.split(".")
    return parts[2] if parts[0] == "blocks" else parts[0]


def _rows_by_label(there: list[str], texts: Texts, name: str, found: Tensor, own: Tensor) -> Tensor | None:
    """Each label's row of the table moves to the place that the label has here; new labels start anew."""
    if name != "labels.weight" or not isinstance(texts, LabelTexts) or there == list(texts.counts):
        return only_equal_shapes(name, found, own)
    if found.shape[1:] != own.shape[1:] or len(there) > len(found):
        return None
    table, rows = own.clone(), {label: i for i, label in enumerate(there)}
    for i, label in enumerate(texts.counts):
        if label in rows:
            table[i] = found[rows[label]]
    return table


def _codec(options: DiTTrainingOptions, data: LatentData, context: DistributedContext) -> Codec | None:
    if options.mdsa is None:
        return None
    model, header = load_mdsa(options.mdsa)
    check_made_by(data.encoder, header, f"mdsa = {options.mdsa}:", f"latents = {data.name}")
    return Codec(model, header, device=context.device, batch_size=PICTURED, compile=False)
