"""Generates clips: noise through the STDiT's flow to latents, through the MDSA to pictures and sound.

    eps -- solve v(z, t, text) -- latent -- MDSA -- frames + mel stack -- Griffin-Lim -- mp4, wav

In OUT: KEY.mp4, KEY.wav, sheet.png (frames over spectrograms), samples.json (keys and labels), and the
latents as an output that `avprep decode` and `avprep verify` read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from PIL import Image
from torch import Tensor

from avmodel.config import STDiTConfig
from avmodel.data import ClipBatch, layout_of, to_model
from avmodel.dit.flow import Solver, draw_source, guided, solve
from avmodel.dit.given import Given, read_given
from avmodel.dit.model import Captions, STDiT
from avmodel.dit.text import CaptionTexts, LabelTexts, TextError, Texts, read_caption_table
from avmodel.dit.train import KIND, check_made_by
from avmodel.mdsa.checkpoint import Codec, open_codec
from avmodel.pictures import sheet, strips
from avmodel.training.loop import Machine, device_of, load_checkpoint, load_weights
from avprep.dsp.griffin_lim import invert
from avprep.media.mux import write_mp4
from avprep.shards.clips import clip_key
from avprep.shards.latents import EncoderHeader, LatentPacker
from avprep.shards.layout import HEADER_FILE, LATENTS, ShardError, kind_of, read_header
from avprep.shards.plan import PlanRow
from avprep.shards.store import open_store
from avprep.shards.writer import OutputWriter

ON_SHEET = 16  # clips
_FINGERPRINT = "sample-"  # what an output of this module's fingerprint begins with
_SAMPLE_FILE = re.compile(r"[0-9a-f]{16}_\d{11}\.(mp4|wav)")


@dataclass(frozen=True, kw_only=True)
class SampleOptions:
    dit: Path
    mdsa: Path
    out: Path
    labels: tuple[str, ...]  # of every clip; () draws them as the training set has them
    caption: str
    captions_file: Path | None  # embeddings of captions, where the model reads those
    n: int
    steps: int
    solver: Solver
    guidance: float
    seed: int
    given_video: Path | None  # its sound is made
    given_audio: Path | None  # its pictures are made
    batch_size: int
    device: str


@dataclass(frozen=True)
class Sample:
    """A generated clip."""

    key: str
    labels: tuple[str, ...]
    caption: str
    latent: Tensor  # float32 (C, P, rows, columns)
    frames: Tensor  # uint8 (T, H, W, RGB)
    mel: Tensor  # float32 (T, n_mels, W)
    waveform: np.ndarray  # float32 (samples,)


@dataclass(frozen=True)
class MadeLatent:
    """What is kept of a generated clip to the end of a run: thousands of them fit in memory."""

    key: str
    labels: tuple[str, ...]
    caption: str
    latent: np.ndarray  # float16 (C, P, rows, columns)


def sample(options: SampleOptions) -> Iterator[Sample]:
    """Generates `n` clips and writes what the module says. The same seed gives the same bytes on a CPU,
    whatever the batch size.

    Raises:
        CheckpointError: a bad checkpoint, or a DiT trained on the latents of another MDSA.
        TextError: a label or caption that the model does not know; the nearest are named.
        GivenError: a given clip that cannot be read.
        ShardError: `out` holds clips, or latents that `avprep encode` made.
    """
    machine = Machine(device_of(options.device))
    model, header, texts = load_dit(options.dit, options.captions_file)
    codec = open_codec(options.mdsa, device=options.device, batch_size=options.batch_size, compile=False)
    check_made_by(header, codec.header, f"--mdsa {options.mdsa}", f"what --dit {options.dit} was trained on")
    labels, captions = _asked_for(options, texts)
    given = read_given(codec, options.given_video, options.given_audio)
    _take_folder(options.out)
    pictures: list[Tensor] = []
    made: list[MadeLatent] = []
    for first in range(0, options.n, options.batch_size):
        chosen = slice(first, min(first + options.batch_size, options.n))
        text = texts.captions(labels[chosen], captions[chosen])
        z = _solve(model.to(machine.device), text, range(chosen.start, chosen.stop), given, machine, options)
        for one in _decode(z, chosen.start, labels, captions, codec, given, options):
            if len(pictures) < ON_SHEET:
                pictures += strips(to_model(ClipBatch(one.frames[None], one.mel[None]), one.frames.shape[1]))
            made.append(MadeLatent(one.key, one.labels, one.caption, one.latent.numpy().astype(np.float16)))
            yield one
    Image.fromarray(sheet(pictures).numpy()).save(options.out / "sheet.png")
    told = [{"key": one.key, "labels": list(one.labels), "caption": one.caption} for one in made]
    (options.out / "samples.json").write_text(json.dumps(told, indent=1, ensure_ascii=False))
    write_latents(made, header, options)


def _take_folder(out: Path) -> None:
    """An empty folder, or one of earlier samples, which are removed; never another command's output."""
    out.mkdir(parents=True, exist_ok=True)
    store = open_store(out)
    if not store.exists(HEADER_FILE):
        return
    header = read_header(store)
    if not header.get("fingerprint", "").startswith(_FINGERPRINT):
        raise ShardError(f"--out {out} holds {kind_of(header)} that another command made; give another --out")
    for path in out.iterdir():
        if _SAMPLE_FILE.fullmatch(path.name):
            path.unlink()


def load_dit(path: Path, captions_file: Path | None) -> tuple[STDiT, EncoderHeader, Texts]:
    """The averaged model of `dit.pt`, the header of the latents it makes, and how it reads text.

    Raises:
        CheckpointError, TextError: a sentence each.
    """
    payload = load_checkpoint(path, KIND)
    header = EncoderHeader.from_dict(payload["latents"])
    model = STDiT(STDiTConfig.from_dict(payload["config"]), layout_of(header))
    load_weights(model, payload["weights"], path)
    if "labels" in payload["texts"]:
        if captions_file is not None:
            raise TextError(f"--captions-file {captions_file}: {path} was trained on labels and reads none")
        return model.eval(), header, LabelTexts(payload["texts"]["labels"])
    table = read_caption_table(captions_file) if captions_file else None
    if table is None:
        raise TextError(
            f"{path} reads caption embeddings: --captions-file names the captions.safetensors "
            f"beside the latents"
        )
    return model.eval(), header, CaptionTexts(table, **payload["texts"]["embeddings"])


def _asked_for(options: SampleOptions, texts: Texts) -> tuple[list[tuple[str, ...]], list[str]]:
    """The labels and the caption of every clip."""
    n = options.n
    if options.caption and isinstance(texts, LabelTexts):
        raise TextError(f"--caption {options.caption!r}: the model was trained on labels; --label takes one")
    is_given = options.given_video is not None or options.given_audio is not None
    if options.labels or options.caption or is_given or not isinstance(texts, LabelTexts):
        return [options.labels] * n, [options.caption] * n
    return texts.draw(n, torch.Generator().manual_seed(options.seed)), [""] * n


def _solve(
    model: STDiT,
    text: Captions,
    numbers: range,
    given: Given | None,
    machine: Machine,
    options: SampleOptions,
) -> Tensor:
    """Latents of the clips of these numbers, float32 (B, C, P, rows, columns), on the CPU."""
    device, layout = machine.device, model.layout
    # Each clip has its own noise, so that a batch's size changes nothing.
    noise = [
        draw_source(layout.shape, torch.Generator().manual_seed(_seed_of(options.seed, i))) for i in numbers
    ]
    eps = torch.stack(noise).to(device)
    text = Captions(*(part.to(device) for part in text))
    known = mask = None
    if given is not None:
        known = given.latent.to(device).expand_as(eps)
        mask = given.known_planes(layout).to(device)
    with torch.inference_mode(), machine.autocast():
        z = solve(
            guided(model, text, options.guidance),
            eps,
            steps=options.steps,
            solver=options.solver,
            mask=layout.mask(device),
            known=known,
            known_mask=mask,
        )
    return z.cpu()


def _seed_of(seed: int, number: int) -> int:
    return (seed * 1_000_003 + number) % 2**63


def _decode(
    z: Tensor,
    first: int,
    labels: list,
    captions: list,
    codec: Codec,
    given: Given | None,
    options: SampleOptions,
) -> Iterator[Sample]:
    """Decodes and writes a batch. What was given is shown and heard as it was given."""
    spec = codec.header.spec
    frames, mel = codec.decode(z)
    waveforms = invert(mel, spec).waveform.numpy()
    for i in range(len(z)):
        made = Sample(
            key=clip_key(f"sample of seed {options.seed}", first + i),
            labels=labels[first + i],
            caption=captions[first + i],
            latent=z[i],
            frames=given.frames if given is not None and given.frames is not None else frames[i],
            mel=mel[i],
            waveform=given.waveform if given is not None and given.waveform is not None else waveforms[i],
        )
        path = options.out / made.key
        write_mp4(
            f"{path}.mp4", made.frames.numpy(), made.waveform, fps=spec.fps, sample_rate=spec.sample_rate
        )
        soundfile.write(f"{path}.wav", made.waveform, spec.sample_rate, subtype="PCM_16")
        yield made


def write_latents(made: list[MadeLatent], header: EncoderHeader, options: SampleOptions) -> None:
    """The latents as an output of one shard, like those of `avprep encode`."""
    spec, made = header.spec, sorted(made, key=lambda one: one.key)
    writer = OutputWriter(
        open_store(options.out),
        LATENTS,
        header.output_header(packed=False, posterior=False),
        fingerprint=f"{_FINGERPRINT}{options.seed}-{header.weights[:16]}",
        root=".",
    )
    rows = [
        PlanRow(key=one.key, shard=0, source="sample", start=0, labels=one.labels, caption=one.caption)
        for one in made
    ]
    writer.plan([rows])
    pack = LatentPacker(header, packed=False)
    clips = (pack(_clip_header(one, float(spec.seconds)), one.latent) for one in made)
    writer.shard(0, clips, sample_rate=spec.sample_rate, entries=pack.ledger_entries)
    writer.stats({"latents": pack.sums.statistics(header), "labels": pack.sums.labels})


def _clip_header(made: MadeLatent, seconds: float) -> dict[str, Any]:
    return {
        "labels": list(made.labels),
        "caption": made.caption,
        "source": "sample",
        "start_s": 0.0,
        "stop_s": seconds,
        "has_audio": True,
    }
