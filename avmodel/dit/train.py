"""Trains the STDiT on cached latents by reflected flow matching (paper section 3.3; docs/model.md 3-5).

Each step: z1 from the shards, eps and t drawn, v(z_t, t) regressed on z1 - eps. In OUT:

    dit.pt          config, latents' header, texts, averaged weights (EMA), step: what `avmodel sample` takes
    state.pt        that and the optimizer: what the same command goes on from
    metrics.jsonl   and tensorboard/: loss, loss by t, pictures of samples
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from avmodel.config import STDiTConfig
from avmodel.data import ClipBatch, LatentBatch, LatentData, Steps, step_loader, to_model
from avmodel.dit.flow import draw_source, draw_times, flow_loss, guided, solve
from avmodel.dit.model import Captions, STDiT
from avmodel.dit.text import (
    LABELS_A_CLIP,
    CaptionTexts,
    LabelTexts,
    TextError,
    Texts,
    read_caption_table,
)
from avmodel.mdsa.checkpoint import Codec, load_mdsa
from avmodel.pictures import sheet, strips
from avmodel.training.loop import (
    CheckpointError,
    Ema,
    Health,
    Machine,
    RunLog,
    Schedule,
    load_checkpoint,
    load_weights,
    open_machine,
    run_steps,
    same_run,
    save_checkpoint,
    set_learning_rate,
    stop_on_signal,
    warm_up,
)
from avprep.shards.latents import EncoderHeader
from avprep.shards.layout import CAPTIONS_FILE, LATENTS, STATS_FILE

KIND, STATE_KIND = "dit", "dit training state"
T_BUCKETS = 4  # of the loss by t
PICTURED = 4  # samples in a picture
PICTURE_STEPS = 20


@dataclass(frozen=True, kw_only=True)
class DiTTraining:
    """All that `avmodel train-dit` was told. The first block decides the weights; the second does not."""

    latents: str
    out: str
    model: STDiTConfig
    batch_size: int  # latents a process and step
    lr: float
    warmup_steps: int
    clip_grad: float  # norm
    ema: float  # decay a step
    seed: int

    steps: int
    mdsa: Path | None  # to decode pictures of samples
    loader_workers: int
    checkpoint_every: int  # steps
    eval_every: int  # steps: loss by t, a picture
    compile: bool
    device: str

    def schedule(self, world: int) -> Schedule:
        return Schedule(
            steps=self.steps,
            eval_every=self.eval_every,
            checkpoint_every=self.checkpoint_every,
            samples_per_step=self.batch_size * world,
            unit="samples",
        )

    def identity(self, world: int, model: STDiTConfig, data: LatentData) -> dict[str, Any]:
        """What a run that goes on must have in common with the one that began."""
        decisive = ("batch_size", "lr", "warmup_steps", "clip_grad", "ema", "seed")
        fields = {name: value for name, value in asdict(self).items() if name in decisive}
        return fields | {
            "model": model.to_dict(),
            "processes": world,
            "latents' fingerprint": data.header["fingerprint"],
            "number of latents": len(data),
        }


@dataclass(frozen=True)
class DiTResult:
    step: int
    skipped: int  # steps left out: NaN or Inf
    stopped_by: int | None  # the signal's number


def train_dit(config: DiTTraining) -> DiTResult:
    """Trains, or goes on training, until the last step or a signal.

    Raises:
        TrainingError, ConfigError, ShardError, CheckpointError, TextError: a sentence each.
    """
    with open_machine(config.device) as machine, stop_on_signal() as stop:
        trainer = _Trainer(config, machine, LatentData(config.latents))
        trainer.resume()
        try:
            run_steps(trainer, config.schedule(machine.world), machine, trainer.log, trainer.health, stop)
        finally:
            trainer.log.close()
        return DiTResult(trainer.step, trainer.health.skipped, stop.number)


class _Trainer:
    """The state of a run: what `state.pt` holds, and what is made anew from the config."""

    def __init__(self, config: DiTTraining, machine: Machine, data: LatentData) -> None:
        self.config, self.machine, self.data = config, machine, data
        self.out = Path(config.out)
        self.out.mkdir(parents=True, exist_ok=True)
        self.texts, self.model_config = _texts_of(data, config.model)
        self.codec = _codec(config, data, machine)
        torch.manual_seed(config.seed)
        self.model = STDiT(self.model_config, data.layout).to(machine.device)
        self.mask = data.layout.mask(machine.device)
        self.ema = Ema(self.model, config.ema)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), config.lr, betas=(0.9, 0.999), weight_decay=0.0, fused=machine.on_gpu
        )
        self.health = Health(machine)
        self.step = 0  # steps done
        self._by_t = torch.zeros(2, T_BUCKETS, device=machine.device)  # sums of losses, and their number
        self._batches: Iterator[LatentBatch] | None = None
        self._forward = self._wrapped()

    def _wrapped(self) -> nn.Module:
        module: nn.Module = self.model
        if self.machine.world > 1:
            ids = [self.machine.device.index] if self.machine.on_gpu else None
            module = DistributedDataParallel(module, device_ids=ids)
        return torch.compile(module) if self.config.compile and self.machine.on_gpu else module

    # --- going on ---

    def resume(self) -> None:
        """Loads state.pt if there is one, and opens the log from its step on."""
        path = self.out / "state.pt"
        if path.exists():
            state = load_checkpoint(path, STATE_KIND)
            same_run(state["run"], self._identity(), path)
            load_weights(self.model, state["model"], path)
            self.ema.load(state["ema"], state["step"] - state["skipped"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.health.skipped = state["step"], state["skipped"]
        self.log = RunLog(self.out, first_step=self.step, is_first=self.machine.is_first)

    def _identity(self) -> dict[str, Any]:
        return self.config.identity(self.machine.world, self.model_config, self.data)

    def save(self) -> None:
        if not self.machine.is_first:
            return
        save_checkpoint(
            self.out / "dit.pt",
            {
                "kind": KIND,
                "config": self.model_config.to_dict(),
                "latents": {"kind": LATENTS} | self.data.encoder.to_dict(),
                "texts": self.texts.to_dict(),
                "step": self.step,
                "weights": {name: tensor.cpu() for name, tensor in self.ema.weights.items()},
            },
        )
        # Last: where it says that a step is done, what the other commands take is there.
        save_checkpoint(
            self.out / "state.pt",
            {
                "kind": STATE_KIND,
                "run": self._identity(),
                "step": self.step,
                "skipped": self.health.skipped,
                "model": self.model.state_dict(),
                "ema": self.ema.weights,
                "optimizer": self.optimizer.state_dict(),
            },
        )

    # --- a step ---

    def train_step(self) -> dict[str, Tensor]:
        config, machine = self.config, self.machine
        if self._batches is None:
            self._batches = self._read()
        batch = next(self._batches)
        z1 = batch.latent.to(machine.device, non_blocking=True).float()
        captions = Captions(*(part.to(machine.device) for part in self.texts.captions(*batch[1:])))
        generator = machine.generator(config.seed, self.step)
        eps = draw_source(tuple(z1.shape), generator)
        t = draw_times(len(z1), generator)
        drop = torch.rand(len(z1), generator=generator, device=machine.device)
        drop = drop < self.model_config.caption_dropout

        def velocity(z: Tensor, at: Tensor) -> Tensor:
            with machine.autocast():
                return self._forward(z, at, captions, drop)

        loss, per_sample = flow_loss(velocity, z1, eps, t, self.mask)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), config.clip_grad)
        good = self.health.check(loss, norm)
        if good:
            set_learning_rate(self.optimizer, config.lr * warm_up(self.step, config.warmup_steps))
            self.optimizer.step()
            self.ema.update(self.model)
            self._count_by_t(t, per_sample)
        self.optimizer.zero_grad(set_to_none=True)
        return {"loss": loss.detach(), "gradient_norm": norm} if good else {}

    def _read(self) -> Iterator[LatentBatch]:
        config, machine = self.config, self.machine
        steps = Steps(
            len(self.data),
            config.batch_size,
            seed=config.seed,
            first=self.step,
            rank=machine.rank,
            world=machine.world,
        )
        return iter(step_loader(self.data, steps, workers=config.loader_workers, pin=machine.on_gpu))

    # --- what is told ---

    def _count_by_t(self, t: Tensor, per_sample: Tensor) -> None:
        bucket = (t * T_BUCKETS).long().clamp(max=T_BUCKETS - 1)
        self._by_t[0].index_add_(0, bucket, per_sample)
        self._by_t[1].index_add_(0, bucket, torch.ones_like(per_sample))

    @torch.no_grad()
    def evaluate(self) -> None:
        """The loss by t since the last time and, where an MDSA can decode it, a picture of samples."""
        if not self.machine.is_first:
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
        captions = Captions(*(part.to(self.machine.device) for part in captions))
        generator = torch.Generator(self.machine.device).manual_seed(self.config.seed)
        eps = draw_source((PICTURED, *self.data.layout.shape), generator)
        with self.ema.swapped_into(self.model), self.machine.autocast():
            z = solve(guided(self.model, captions, 1.0), eps, steps=PICTURE_STEPS, mask=self.mask)
        frames, mel = self.codec.decode(z.cpu())
        return sheet(strips(to_model(ClipBatch(frames, mel), frames.shape[2])))


def _texts_of(data: LatentData, preset: STDiTConfig) -> tuple[Texts, STDiTConfig]:
    """Embeddings where the latents carry them, else the labels of stats.json; and the model for them."""
    table = read_caption_table(Path(data.folder) / CAPTIONS_FILE)
    if table:
        width = next(iter(table.values())).shape[1]
        # The preset's, or what the longest text takes: a text that is cut off may lose what tells it apart.
        tokens = max(preset.caption_tokens, *(len(embedding) for embedding in table.values()))
        config = replace(preset, caption_dim=width, caption_tokens=tokens)
        return CaptionTexts(table, width, tokens), config
    try:
        with open(Path(data.folder) / STATS_FILE) as file:
            counts = json.load(file)["labels"]
    except FileNotFoundError:
        raise TextError(
            f"--latents {data.folder} has no stats.json yet, which names the labels: run the "
            f"same avprep encode command to its end first"
        ) from None
    # Without a label every clip reads the null; a table of one row keeps the model in the label mode.
    config = replace(preset, classes=max(1, len(counts)), caption_tokens=LABELS_A_CLIP)
    return LabelTexts(counts), config


def _codec(config: DiTTraining, data: LatentData, machine: Machine) -> Codec | None:
    if config.mdsa is None:
        return None
    model, header = load_mdsa(config.mdsa)
    check_made_by(data.encoder, header, f"--mdsa {config.mdsa}", f"--latents {data.folder}")
    return Codec(model, header, device=machine.device, batch_size=PICTURED, compile=False)


def check_made_by(latents: EncoderHeader, mdsa: EncoderHeader, ckpt: str, what: str) -> None:
    """Raises CheckpointError where the latents are not those of this MDSA."""
    if latents.weights != mdsa.weights:
        raise CheckpointError(
            f"{ckpt} has the weights {mdsa.weights[:12]}; {what} was made with another "
            f"MDSA's, {latents.weights[:12]}: what is decoded would be something else"
        )
