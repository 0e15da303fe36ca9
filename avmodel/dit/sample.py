"""Generates clips: noise through the STDiT's flow to latents, through the MDSA to pictures and sound.

    eps -- solve v(z, t, text) -- latent -- MDSA -- frames + mel stack -- Griffin-Lim -- mp4, wav

In OUT: KEY.mp4, KEY.wav, sheet.png (frames over spectrograms), samples.json (keys and labels), request.json
(what was asked for), and the latents as an output that `avprep decode` and `avprep verify` read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from PIL import Image
from torch import Tensor

from avmodel.data import ClipBatch, to_model
from avmodel.dit.checkpoint import TrainedDiT, check_made_by, load_dit
from avmodel.dit.exchange import CLIP_FILE, REQUEST_FILE, finish_exchange, staged
from avmodel.dit.flow import draw_source, solve
from avmodel.dit.given import Given, read_given
from avmodel.dit.guidance import guided
from avmodel.dit.model import Captions, STDiT
from avmodel.dit.options import SampleOptions
from avmodel.dit.text import LabelTexts, TextError, Texts
from avmodel.mdsa.checkpoint import Codec, open_codec, weights_hash
from avmodel.pictures import sheet, strips
from avmodel.training.errors import CheckpointError
from avmodel.training.machine import DistributedContext, choose_device
from avmodel.training.source import file_identity
from avprep.dsp.griffin_lim import invert
from avprep.media.mux import write_mp4
from avprep.shards.clips import clip_key
from avprep.shards.latents import EncoderHeader, LatentPacker
from avprep.shards.layout import HEADER_FILE, LATENTS, ShardError, kind_of, ledger_name, read_header
from avprep.shards.lock import lock
from avprep.shards.plan import PlanRow
from avprep.shards.store import open_store
from avprep.shards.writer import OutputWriter

ON_SHEET = 16  # clips
_LEDGER = ledger_name(0)
_FINGERPRINT = "sample-"  # how the fingerprint of this module's outputs begins


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
    """What is kept of a generated clip until the end of a run: thousands of them fit in memory."""

    key: str
    labels: tuple[str, ...]
    caption: str
    latent: np.ndarray  # float16 (C, P, rows, columns)


@contextmanager
def open_sampling(options: SampleOptions) -> Iterator[Sampling]:
    """Loads the models and takes the lock of `options.out`.

    Raises:
        CheckpointError: a bad checkpoint, or a DiT trained on the latents of another MDSA.
        TextError: a label or caption that the model does not know; the nearest are named.
        GivenError: a given clip that cannot be read.
        ShardError: `out` holds clips, or latents that `avprep encode` made, or is being written to.
    """
    trained = load_dit(options.dit, options.captions_file)
    codec = open_codec(options.mdsa, device=options.device, batch_size=options.batch_size, compile=False)
    check_made_by(
        trained.latents, codec.header, f"mdsa = {options.mdsa}:", f"what {options.dit} was trained on"
    )
    _asked_for(options, trained.texts)  # raises before anything is written
    given = read_given(codec, options.given_video, options.given_audio)
    _check_folder(options.out)
    with lock(open_store(options.out)):
        finish_exchange(options.out)
        yield Sampling(options, trained, codec, given)


class Sampling:
    """The generation of `options.n` clips. Iterating generates them; at the end they replace earlier samples.

    The same seed gives the same bytes on a CPU, whatever the batch size.
    """

    def __init__(
        self, options: SampleOptions, trained: TrainedDiT, codec: Codec, given: Given | None
    ) -> None:
        self._options, self._trained, self._codec, self._given = options, trained, codec, given
        self._request = _request(options, trained, codec)
        found = {path.name for path in options.out.iterdir() if CLIP_FILE.fullmatch(path.name)}
        self.earlier = sum(name.endswith(".mp4") for name in found)  # clips that would be replaced
        self.is_done = self._is_there(found)

    def __iter__(self) -> Iterator[Sample]:
        """Raises CheckpointError if the models generate NaN or Inf: then nothing is replaced."""
        options = self._options
        pictures: list[Tensor] = []
        made: list[MadeLatent] = []
        with staged(options.out) as folder:
            for one in self._generate(replace(options, out=folder)):
                if len(pictures) < ON_SHEET:
                    batch = ClipBatch(one.frames[None], one.mel[None])
                    pictures += strips(to_model(batch, one.frames.shape[1]))
                latent = one.latent.numpy().astype(np.float16)
                made.append(MadeLatent(one.key, one.labels, one.caption, latent))
                yield one
            Image.fromarray(sheet(pictures).numpy()).save(folder / "sheet.png")
            listed = [{"key": one.key, "labels": list(one.labels), "caption": one.caption} for one in made]
            (folder / "samples.json").write_text(json.dumps(listed, indent=1, ensure_ascii=False))
            (folder / REQUEST_FILE).write_text(json.dumps(self._request, indent=1, sort_keys=True))
            write_latents(made, self._trained.latents, replace(options, out=folder))

    def _generate(self, options: SampleOptions) -> Iterator[Sample]:
        """Generates, decodes and writes the clips, batch by batch."""
        context = DistributedContext(choose_device(options.device))
        model = self._trained.model.to(context.device)
        labels, captions = _asked_for(options, self._trained.texts)
        for first in range(0, options.n, options.batch_size):
            chosen = slice(first, min(first + options.batch_size, options.n))
            text = self._trained.texts.captions(labels[chosen], captions[chosen])
            numbers = range(chosen.start, chosen.stop)
            z = _solve(model, text, numbers, self._given, context, options)
            yield from _decode(z, first, labels, captions, self._codec, self._given, options)

    def _is_there(self, found: set[str]) -> bool:
        """Whether `out` holds the clips of this very request, all of them."""
        try:
            request = json.loads((self._options.out / REQUEST_FILE).read_bytes())
        except (FileNotFoundError, ValueError):
            return False
        keys = [_key(self._options, number) for number in range(self._options.n)]
        complete = all({f"{key}.mp4", f"{key}.wav"} <= found for key in keys)
        return request == self._request and complete and open_store(self._options.out).exists(_LEDGER)


def _request(options: SampleOptions, trained: TrainedDiT, codec: Codec) -> dict[str, Any]:
    """Everything that decides the samples; files by what they hold. The batch size and the device change them
    only by rounding."""
    files = ("captions_file", "given_video", "given_audio")
    named = {name: getattr(options, name) for name in files}
    return {
        "dit": weights_hash(trained.model.state_dict()),
        "mdsa": codec.header.weights,
        "labels": list(options.labels),
        **{name: getattr(options, name) for name in ("caption", "n", "steps", "solver", "guidance", "seed")},
        **{name: file_identity(path) if path else None for name, path in named.items()},
    }


def _check_folder(out: Path) -> None:
    """Raises ShardError if `out` holds another command's output."""
    store = open_store(out)
    if not store.exists(HEADER_FILE):
        return
    header = read_header(store)
    if not str(header.get("fingerprint", "")).startswith(_FINGERPRINT):
        raise ShardError(
            f"out = {out}: it holds {kind_of(header)} that another command made; give another `out`"
        )


def _asked_for(options: SampleOptions, texts: Texts) -> tuple[list[tuple[str, ...]], list[str]]:
    """The labels and the caption of every clip. Raises TextError for what the model does not know."""
    n = options.n
    if options.caption and isinstance(texts, LabelTexts):
        raise TextError(f"caption = {options.caption!r}: the model was trained on labels; give `labels`")
    is_given = options.given_video is not None or options.given_audio is not None
    if options.labels or options.caption or is_given or not isinstance(texts, LabelTexts):
        texts.captions([options.labels], [options.caption])
        return [options.labels] * n, [options.caption] * n
    return texts.draw(n, torch.Generator().manual_seed(options.seed)), [""] * n


def _solve(
    model: STDiT,
    text: Captions,
    numbers: range,
    given: Given | None,
    context: DistributedContext,
    options: SampleOptions,
) -> Tensor:
    """Latents of the clips of these numbers, float32 (B, C, P, rows, columns), on the CPU."""
    device, layout = context.device, model.layout
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
    with torch.inference_mode(), context.autocast():
        z = solve(
            guided(model, text, options.guidance),
            eps,
            steps=options.steps,
            solver=options.solver,
            mask=layout.mask(device),
            known=known,
            known_mask=mask,
        )
    z = z.cpu()
    if not torch.isfinite(z).all():
        raise CheckpointError(f"dit = {options.dit}: it generates latents with NaN or Inf; nothing is kept")
    return z


def _key(options: SampleOptions, number: int) -> str:
    return clip_key(f"sample of seed {options.seed}", number)


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
    """Decodes and writes a batch. A given stream is kept as it was given."""
    spec = codec.header.spec
    frames, mel = codec.decode(z)
    if not torch.isfinite(mel).all():
        raise CheckpointError(f"mdsa = {options.mdsa}: it decodes latents to NaN or Inf; nothing is kept")
    waveforms = invert(mel, spec).waveform.numpy()
    for i in range(len(z)):
        made = Sample(
            key=_key(options, first + i),
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
