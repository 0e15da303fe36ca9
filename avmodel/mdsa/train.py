"""Trains the MDSA on clip shards, both stages in one run (paper section 4.1; docs/model.md 3).

    steps   0 ............. stage1_steps .......................... stage1_steps + stage2_steps
            L1 + LPIPS      | + KL, drawn latents | + discriminators, from stage1_steps + disc_start on

Each step is one step of the autoencoder and then, once they are on, one of the discriminators. In OUT:

    mdsa.pt         config, spec, weights, step: what the other commands take
    state.pt        that and the optimizers: what the same command goes on from
    metrics.jsonl   and tensorboard/: losses, PSNR on clips held out by source, saturated latents, pictures
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from avmodel.config import MDSAConfig
from avmodel.data import ClipBatch, ClipData, Steps, collate, step_loader, to_model, to_pixels
from avmodel.mdsa.checkpoint import mdsa_payload
from avmodel.mdsa.discriminators import Discriminators
from avmodel.mdsa.losses import LossWeights, discriminator_loss, gamma_at, generator_loss, random_frames
from avmodel.mdsa.lpips import LPIPSConfig, load_lpips
from avmodel.mdsa.model import MDSA, Clips
from avmodel.pictures import comparison
from avmodel.training.loop import (
    Health,
    Machine,
    RunLog,
    Schedule,
    cool_down,
    load_checkpoint,
    open_machine,
    run_steps,
    same_run,
    save_checkpoint,
    set_learning_rate,
    stop_on_signal,
    warm_up,
)
from avprep.dsp.mel import frames_to_stack
from avprep.dsp.psnr import psnr_a, psnr_v

STATE_KIND = "mdsa training state"
SILENCE = -1.0  # of a mel stack, and black of a picture


@dataclass(frozen=True, kw_only=True)
class MDSATraining:
    """All that `avmodel train-mdsa` was told. The first block decides the weights; the second does not."""

    clips: str
    out: str
    model: MDSAConfig
    loss: LossWeights
    lpips: LPIPSConfig | None  # None: without the term
    stage1_steps: int
    stage2_steps: int
    disc_start: int  # steps of stage 2 before the discriminators
    disc_width: int  # channels of their first layer: 64
    disc_layers: int  # of stride 2: 3
    batch_size: int  # clips a process and micro-batch
    accumulate: int  # micro-batches a step
    lr: float
    warmup_steps: int
    cooldown_steps: int  # the last ones, over which the rate falls to 0
    clip_grad: float  # norm
    modality_dropout: float  # share of training clips in which one stream is silent or black
    holdout: float  # share of sources kept for PSNR
    seed: int

    loader_workers: int
    checkpoint_every: int  # steps
    eval_every: int  # steps
    eval_clips: int
    checkpoint_activations: bool
    compile: bool
    device: str

    @property
    def steps(self) -> int:
        return self.stage1_steps + self.stage2_steps

    def schedule(self, world: int) -> Schedule:
        return Schedule(
            steps=self.steps,
            eval_every=self.eval_every,
            checkpoint_every=self.checkpoint_every,
            samples_per_step=self.batch_size * self.accumulate * world,
            unit="clips",
        )

    def identity(self, world: int, data: ClipData) -> dict[str, Any]:
        """What a run that goes on must have in common with the one that began."""
        free = (
            "clips",
            "out",
            "stage2_steps",
            "loader_workers",
            "checkpoint_every",
            "eval_every",
            "eval_clips",
            "checkpoint_activations",
            "compile",
            "device",
            "lpips",
            "model",
        )
        fields = {k: v for k, v in asdict(self).items() if k not in free}
        backbone = self.lpips.backbone if self.lpips else "none"
        if self.cooldown_steps:  # where the end is decides the rates before it
            fields["stage2_steps"] = self.stage2_steps
        return fields | {
            "model": self.model.to_dict(),
            "lpips": backbone,
            "processes": world,
            "clips' fingerprint": data.header["fingerprint"],
            "number of clips": len(data),
        }


@dataclass(frozen=True)
class MDSAResult:
    step: int
    skipped: int  # steps left out: NaN or Inf
    psnr_v: float | None  # dB, None for a stream that is not there
    psnr_a: float | None
    is_held_out: bool  # of clips whose sources were held out; else of clips trained on
    saturated: dict[str, float]  # by plane: the share of a latent's values that tanh has at the edge
    stopped_by: int | None  # the signal's number


def train_mdsa(config: MDSATraining) -> MDSAResult:
    """Trains, or goes on training, until the last step or a signal.

    Raises:
        TrainingError, ConfigError, ShardError, CheckpointError: a sentence each.
    """
    with open_machine(config.device) as machine, stop_on_signal() as stop:
        data = ClipData(config.clips)
        config.model.check_spec(data.spec)
        trainer = _Trainer(config, machine, data)
        trainer.resume()
        try:
            run_steps(trainer, config.schedule(machine.world), machine, trainer.log, trainer.health, stop)
        finally:
            trainer.log.close()
        return MDSAResult(
            trainer.step,
            trainer.health.skipped,
            *trainer.last_psnr,
            bool(len(trainer.held_out)),
            trainer.last_saturated,
            stop.number,
        )


class _Trainer:
    """The state of a run: what `state.pt` holds, and what is made anew from the config."""

    def __init__(self, config: MDSATraining, machine: Machine, data: ClipData) -> None:
        self.config, self.machine, self.data = config, machine, data
        self.out = Path(config.out)
        self.out.mkdir(parents=True, exist_ok=True)
        self.training, self.held_out = data.split_by_source(config.holdout)
        torch.manual_seed(config.seed)
        self.model = MDSA(config.model, checkpoint_activations=config.checkpoint_activations)
        self.model.to(machine.device)
        self.discriminators = _discriminators(config, machine)
        self.lpips = load_lpips(config.lpips).to(machine.device) if config.lpips else None
        adam = {"lr": config.lr, "betas": (0.5, 0.9), "fused": machine.on_gpu}
        self.optimizer = torch.optim.Adam(self.model.parameters(), **adam)
        # As a group, which may be empty: a model may train without discriminators.
        judges = {"params": list(self.discriminators.parameters())}
        self.d_optimizer = torch.optim.Adam([judges], **adam)
        self.health = Health(machine)
        self.step = 0  # steps done
        self.last_psnr: tuple[float | None, float | None] = (None, None)
        self.last_saturated: dict[str, float] = {}
        self._batches: Iterator[ClipBatch] | None = None  # both made at the first step
        self._forward: nn.Module | None = None
        if config.compile and machine.on_gpu:
            self.model.compile_layers()

    # --- going on ---

    def resume(self) -> None:
        """Loads state.pt if there is one, and opens the log from its step on."""
        path = self.out / "state.pt"
        identity = self.config.identity(self.machine.world, self.data)
        if path.exists():
            state = load_checkpoint(path, STATE_KIND)
            same_run(state["run"], identity, path)
            self.model.load_state_dict(state["model"])
            self.discriminators.load_state_dict(state["discriminators"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.d_optimizer.load_state_dict(state["d_optimizer"])
            self.step, self.health.skipped = state["step"], state["skipped"]
        self.log = RunLog(self.out, first_step=self.step, is_first=self.machine.is_first)

    def save(self) -> None:
        if not self.machine.is_first:
            return
        save_checkpoint(self.out / "mdsa.pt", mdsa_payload(self.model, self.data.spec, self.step))
        # Last: where it says that a step is done, what the other commands take is there.
        save_checkpoint(
            self.out / "state.pt",
            {
                "kind": STATE_KIND,
                "run": self.config.identity(self.machine.world, self.data),
                "step": self.step,
                "skipped": self.health.skipped,
                "model": self.model.state_dict(),
                "discriminators": self.discriminators.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "d_optimizer": self.d_optimizer.state_dict(),
            },
        )

    # --- a step ---

    def _read(self) -> Iterator[ClipBatch]:
        config, machine = self.config, self.machine
        steps = Steps(
            len(self.training),
            config.batch_size,
            seed=config.seed,
            first=self.step * config.accumulate,
            rank=machine.rank,
            world=machine.world,
        )
        return iter(step_loader(self.training, steps, workers=config.loader_workers, pin=machine.on_gpu))

    def _start_stage(self) -> None:
        """Readies the autoencoder and the discriminators as the stage of this step calls them.

        DDP is made anew for each stage: it must know which parameters have gradients.
        """
        if self.step < self.config.stage1_steps:
            self.model.freeze_logvar()
        elif self.step == self.config.stage1_steps:
            self.model.start_logvar()
        self._forward, self._disc_forward = self.model, self.discriminators
        if self.machine.world > 1:
            ids = [self.machine.device.index] if self.machine.on_gpu else None
            self._forward = DistributedDataParallel(self.model, device_ids=ids)
            if self.config.model.adversarial:
                self._disc_forward = DistributedDataParallel(self.discriminators, device_ids=ids)

    def train_step(self) -> dict[str, Tensor]:
        """One step of the autoencoder and, once they are on, one of the discriminators."""
        config = self.config
        if self._batches is None:
            self._batches = self._read()
        if self._forward is None or self.step == config.stage1_steps:
            self._start_stage()
        rate = config.lr * warm_up(self.step, config.warmup_steps)
        rate *= cool_down(self.step, config.cooldown_steps, config.steps)
        generator = self.machine.generator(config.seed, self.step)
        gamma = self._gamma()
        terms: dict[str, Tensor] = {}
        passes = []
        batches = [next(self._batches) for _ in range(config.accumulate)]
        if not self.health.check(*(batch.mel for batch in batches)):
            return {}
        for i, batch in enumerate(batches):
            clips = self._clips(batch, generator)
            frames = random_frames(config.batch_size, config.model.frames, generator)
            with _sync_last(self._forward, i, config.accumulate):
                x_hat = self._autoencoder_pass(clips, frames, gamma, generator, terms)
            passes.append((clips, x_hat, frames))
        trained = [(self.optimizer, self.model)]
        if gamma:  # on reconstructions that are made already: it is the same before the autoencoder's step
            for i, (clips, x_hat, frames) in enumerate(passes):
                with _sync_last(self._disc_forward, i, len(passes)):
                    self._discriminator_pass(clips, x_hat, frames, terms)
            trained.append((self.d_optimizer, self.discriminators))
        return terms if self._apply(trained, rate, terms) else {}

    def _gamma(self) -> float:
        if not self.config.model.adversarial:
            return 0.0
        return gamma_at(self.step, self.config.stage1_steps + self.config.disc_start)

    def _clips(self, batch: ClipBatch, generator: torch.Generator) -> Clips:
        """A batch on the device as the model sees it, some clips with a silent or black stream."""
        batch = ClipBatch(*(part.to(self.machine.device, non_blocking=True) for part in batch))
        clips = to_model(batch, self.config.model.size)
        share = self.config.modality_dropout
        if share:
            draw = torch.rand(len(batch.mel), generator=generator, device=self.machine.device)
            clips["a"][draw < share / 2] = SILENCE
            clips["v"][draw > 1 - share / 2] = SILENCE
        return {stream: clips[stream] for stream in self.config.model.channels}  # in the latent's order

    def _autoencoder_pass(
        self, clips: Clips, frames: Tensor, gamma: float, generator: torch.Generator, terms: dict[str, Tensor]
    ) -> Clips:
        """Adds one micro-batch's gradients and its terms; returns its reconstruction, detached."""
        config, in_stage2 = self.config, self.step >= self.config.stage1_steps
        share = 1 / config.accumulate
        with self.machine.autocast():
            x_hat, posterior = self._forward(clips, sample=in_stage2, generator=generator)
            total = torch.zeros((), device=self.machine.device)
            for i, stream in enumerate(clips):
                loss, parts = generator_loss(
                    clips[stream],
                    x_hat[stream].float(),
                    frames=frames,
                    weights=config.loss,
                    kl=config.model.kl if in_stage2 else "none",
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
        share = 1 / self.config.accumulate
        with self.machine.autocast():
            total, parts = self._disc_forward(clips, x_hat, frames)
        (total * share).backward()
        _add(terms, parts | {"loss_d": total.detach()}, share)

    def _apply(
        self, trained: list[tuple[torch.optim.Optimizer, nn.Module]], rate: float, terms: dict[str, Tensor]
    ) -> bool:
        """Clips the gradients and steps; where a loss or a gradient is not finite, nothing is stepped."""
        norms = [nn.utils.clip_grad_norm_(m.parameters(), self.config.clip_grad) for _, m in trained]
        good = self.health.check(*norms, *terms.values())
        for optimizer, _ in trained:
            if good:
                set_learning_rate(optimizer, rate)
                optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return good

    @torch.no_grad()
    def evaluate(self) -> None:
        """PSNR on held-out clips (on training clips where none is held out), and a picture of the first."""
        if not self.machine.is_first:
            return
        data = self.held_out if len(self.held_out) else self.training
        kind = "held_out" if len(self.held_out) else "training"
        count = min(self.config.eval_clips, len(data))
        chosen = [int(i * len(data) / count) for i in range(count)]
        found: dict[str, list[Tensor]] = {"v": [], "a": []}
        saturated: list[Tensor] = []
        self.model.eval()
        for first in range(0, count, self.config.batch_size):
            batch = collate([data[i] for i in chosen[first : first + self.config.batch_size]])
            clips = {
                s: x
                for s, x in to_model(batch, self.config.model.size).items()
                if s in self.config.model.streams
            }
            # Compiled layers would be compiled anew, without gradients and for the last batch's size.
            with self.machine.autocast(), torch.compiler.set_stance("force_eager"):
                x_hat, posterior = self.model(
                    {s: x.to(self.machine.device) for s, x in clips.items()}, sample=False
                )
            saturated.append(posterior.saturated().cpu())
            x_hat = {stream: value.float().cpu() for stream, value in x_hat.items()}
            if "v" in clips:
                found["v"].append(psnr_v(batch.frames, to_pixels(x_hat["v"])))
            if "a" in clips:
                found["a"].append(psnr_a(batch.mel, frames_to_stack(x_hat["a"][:, 0], self.data.spec)))
            if not first:
                self.log.picture(self.step, kind, comparison(clips, x_hat))
        self.model.train()
        means = {f"{kind}/psnr_{s}": float(torch.cat(v).mean()) for s, v in found.items() if v}
        self.last_psnr = (means.get(f"{kind}/psnr_v"), means.get(f"{kind}/psnr_a"))
        shares = torch.cat(saturated).mean(0).tolist()
        self.last_saturated = dict(zip(self.model.layout.planes, shares, strict=True))
        self.log.scalars(self.step, means | {f"saturated/{p}": s for p, s in self.last_saturated.items()})


class DiscriminatorStep(nn.ModuleDict):
    """The discriminators of each stream, and L_D of a batch as one forward, which DDP asks for."""

    def forward(self, clips: Clips, x_hat: Clips, frames: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        total, terms = 0.0, {}
        for stream, discriminators in self.items():
            loss, parts = discriminator_loss(
                clips[stream], x_hat[stream], frames=frames, discriminators=discriminators
            )
            total = total + loss
            terms |= {f"{stream}/{name}": value for name, value in parts.items()}
        return total, terms


def _discriminators(config: MDSATraining, machine: Machine) -> nn.Module:
    """Those of each stream; none where the model trains without."""
    streams = config.model.streams if config.model.adversarial else ""
    step = DiscriminatorStep(
        {
            stream: Discriminators(
                channels=config.model.channels[stream], ndf=config.disc_width, n_layers=config.disc_layers
            )
            for stream in streams
        }
    )
    if machine.world > 1 and machine.on_gpu:
        step = nn.SyncBatchNorm.convert_sync_batchnorm(step)
    return step.to(machine.device)


def _sync_last(module: nn.Module, i: int, count: int):
    """DDP exchanges gradients with the last micro-batch alone."""
    is_last = i == count - 1
    return module.no_sync() if isinstance(module, DistributedDataParallel) and not is_last else nullcontext()


def _add(terms: dict[str, Tensor], new: dict[str, Tensor], share: float) -> None:
    for name, value in new.items():
        terms[name] = terms.get(name, 0) + value * share
