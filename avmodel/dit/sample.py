"""Generates clips: noise through the STDiT's flow to latents, through the MDSA to pictures and sound.

    eps -- solve v(z, t, text) -- latent -- MDSA -- frames + mel stack -- Griffin-Lim -- mp4, wav

In OUT: KEY.mp4, KEY.wav, sheet.png (frames over spectrograms), samples.json (keys and labels), request.json
(what was asked for), and the latents as an output that `avprep decode` and `avprep verify` read. Clips are
generated shard by shard; a run that was killed goes on after its last whole shard.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from PIL import Image
from torch import Tensor

from avmodel.data import ClipBatch, to_model
from avmodel.dit.checkpoint import TrainedDiT, check_made_by, load_dit
from avmodel.dit.exchange import CLIP_FILE, NEW, REQUEST_FILE, finish_exchange, staged
from avmodel.dit.flow import draw_source, solve
from avmodel.dit.given import Given, read_given
from avmodel.dit.guidance import guided
from avmodel.dit.model import Captions
from avmodel.dit.options import SampleOptions
from avmodel.dit.output import (
    FINGERPRINT,
    SHARD_SIZE,
    SHEET_FILE,
    SampleOutput,
    SampleRow,
    part_in,
    sample_rows,
)
from avmodel.dit.prompts import Prompt, prompts_of
from avmodel.dit.text import LabelTexts
from avmodel.mdsa.checkpoint import Codec, open_codec, weights_hash
from avmodel.pictures import sheet, strips
from avmodel.training.errors import CheckpointError
from avmodel.training.machine import DistributedContext
from avmodel.training.source import file_identity
from avprep.dsp.device import choose_device
from avprep.dsp.griffin_lim import invert
from avprep.media.mux import write_mp4
from avprep.shards.layout import HEADER_FILE, ShardError, kind_of, ledger_name, read_header
from avprep.shards.lock import lock
from avprep.shards.store import open_store

ON_SHEET = 16  # clips


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


@contextmanager
def open_sampling(options: SampleOptions) -> Iterator[Sampling]:
    """Loads the models and takes the lock of `options.out`.

    Raises:
        CheckpointError: a bad checkpoint, or a DiT trained on the latents of another MDSA.
        TextError: prompts that cannot be read, or a text that the model does not know; the nearest are named.
        GivenError: a given clip that cannot be read.
        ShardError: `out` holds clips, or latents that `avprep encode` made, or is being written to.
    """
    trained = load_dit(options.dit, options.captions_file)
    codec = open_codec(options.mdsa, device=options.device, batch_size=options.batch_size, compile=False)
    check_made_by(
        trained.latents, codec.header, f"mdsa = {options.mdsa}:", f"what {options.dit} was trained on"
    )
    prompts = prompts_of(options, trained.texts)  # raises before anything is written
    given = read_given(codec, options.given_video, options.given_audio)
    _check_folder(options.out)
    with lock(open_store(options.out)):
        finish_exchange(options.out)
        yield Sampling(options, trained, codec, given, prompts)


class Sampling:
    """The generation of a clip per prompt. Iterating generates them; at the end they replace earlier samples.

    The same seed gives the same bytes on a CPU, whatever the batch size. No more than one shard of latents is
    in memory.
    """

    def __init__(
        self,
        options: SampleOptions,
        trained: TrainedDiT,
        codec: Codec,
        given: Given | None,
        prompts: Sequence[Prompt],
    ) -> None:
        self._options, self._trained, self._codec, self._given = options, trained, codec, given
        self._context = DistributedContext(choose_device(options.device))
        self._rows = sample_rows(prompts, options.seed)
        self._request = _request(options, len(prompts), trained, codec)
        found = {path.name for path in options.out.iterdir() if CLIP_FILE.fullmatch(path.name)}
        self.count = len(prompts)
        self.earlier = sum(name.endswith(".mp4") for name in found)  # clips that would be replaced
        self.is_done = self._is_there(found)
        self.resumed = part_in(options.out / NEW, self._request)  # clips that a killed run made
        is_drawn = not (options.prompts or options.labels) and given is None
        # A checkpoint of an earlier version says how often each label occurs, not which occur together.
        self.draws_single_labels = (
            is_drawn and isinstance(trained.texts, LabelTexts) and not trained.texts.sets
        )

    def __iter__(self) -> Iterator[Sample]:
        """Raises CheckpointError if the models generate NaN or Inf: then nothing is replaced."""
        options, request = self._options, self._request
        with staged(options.out, lambda folder: part_in(folder, request) > 0) as folder:
            output = SampleOutput(folder, self._rows, self._trained.latents, request, options.seed)
            for index in output.missing:
                yield from self._make_shard(output, index, folder)
            output.finish()

    def _make_shard(self, output: SampleOutput, index: int, folder: Path) -> Iterator[Sample]:
        """Generates and writes the clips of a shard; those of the first are on the sheet."""
        latents: list[np.ndarray] = []
        pictures: list[Tensor] = []
        for one in self._generate(output.shards[index], folder):
            if index == 0 and len(pictures) < ON_SHEET:
                pictures += strips(to_model(ClipBatch(one.frames[None], one.mel[None]), one.frames.shape[1]))
            latents.append(one.latent.numpy().astype(np.float16))
            yield one
        if pictures:
            Image.fromarray(sheet(pictures).numpy()).save(folder / SHEET_FILE)
        output.write_shard(index, latents)

    def _generate(self, rows: Sequence[SampleRow], folder: Path) -> Iterator[Sample]:
        """Generates, decodes and writes clips, batch by batch."""
        size = self._options.batch_size
        for first in range(0, len(rows), size):
            batch = rows[first : first + size]
            yield from self._decode(self._solve(batch), batch, folder)

    def _solve(self, rows: Sequence[SampleRow]) -> Tensor:
        """Latents of the clips, float32 (B, C, P, rows, columns), on the CPU."""
        options, device = self._options, self._context.device
        model = self._trained.model.to(device)
        layout = model.layout
        # Each clip has its own noise, so that a batch's size changes nothing.
        noise = [
            draw_source(layout.shape, torch.Generator().manual_seed(_noise_seed(options.seed, row)))
            for row in rows
        ]
        eps = torch.stack(noise).to(device)
        text = self._trained.texts.captions(
            [row.prompt.labels for row in rows], [row.prompt.caption for row in rows]
        )
        text = Captions(*(part.to(device) for part in text))
        known = mask = None
        if self._given is not None:
            known = self._given.latent.to(device).expand_as(eps)
            mask = self._given.known_planes(layout).to(device)
        with torch.inference_mode(), self._context.autocast():
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
            raise CheckpointError(
                f"dit = {options.dit}: it generates latents with NaN or Inf; these clips are not kept"
            )
        return z

    def _decode(self, z: Tensor, rows: Sequence[SampleRow], folder: Path) -> Iterator[Sample]:
        """Decodes and writes a batch. A given stream is kept as it was given."""
        spec, given = self._codec.header.spec, self._given
        frames, mel = self._codec.decode(z)
        if not torch.isfinite(mel).all():
            raise CheckpointError(
                f"mdsa = {self._options.mdsa}: it decodes latents to NaN or Inf; these clips are not kept"
            )
        waveforms = invert(mel, spec).waveform.numpy()
        for i, row in enumerate(rows):
            made = Sample(
                key=row.key,
                labels=row.prompt.labels,
                caption=row.prompt.caption,
                latent=z[i],
                frames=given.frames if given is not None and given.frames is not None else frames[i],
                mel=mel[i],
                waveform=given.waveform if given is not None and given.waveform is not None else waveforms[i],
            )
            path = folder / made.key
            write_mp4(
                f"{path}.mp4", made.frames.numpy(), made.waveform, fps=spec.fps, sample_rate=spec.sample_rate
            )
            soundfile.write(f"{path}.wav", made.waveform, spec.sample_rate, subtype="PCM_16")
            yield made

    def _is_there(self, found: set[str]) -> bool:
        """Whether `out` holds the clips of this very request, all of them."""
        try:
            request = json.loads((self._options.out / REQUEST_FILE).read_bytes())
        except (FileNotFoundError, ValueError):
            return False
        complete = all({f"{row.key}.mp4", f"{row.key}.wav"} <= found for row in self._rows)
        store, shards = open_store(self._options.out), -(-self.count // SHARD_SIZE)
        has_ledgers = all(store.exists(ledger_name(index)) for index in range(shards))
        return request == self._request and complete and has_ledgers


def _request(options: SampleOptions, count: int, trained: TrainedDiT, codec: Codec) -> dict[str, Any]:
    """Everything that decides the samples; files by what they hold. The batch size and the device change them
    only by rounding."""
    files = ("captions_file", "given_video", "given_audio")
    named = {name: getattr(options, name) for name in files}
    if options.prompts is not None:  # as before without them: earlier samples stay those of their request
        named["prompts"] = options.prompts
    return {
        "dit": weights_hash(trained.model.state_dict()),
        "mdsa": codec.header.weights,
        "labels": list(options.labels),
        "n": count,
        **{name: getattr(options, name) for name in ("caption", "steps", "solver", "guidance", "seed")},
        **{name: file_identity(path) if path else None for name, path in named.items()},
    }


def _check_folder(out: Path) -> None:
    """Raises ShardError if `out` holds another command's output."""
    store = open_store(out)
    if not store.exists(HEADER_FILE):
        return
    header = read_header(store)
    if not str(header.get("fingerprint", "")).startswith(FINGERPRINT):
        raise ShardError(
            f"out = {out}: it holds {kind_of(header)} that another command made; give another `out`"
        )


def _noise_seed(seed: int, row: SampleRow) -> int:
    own = row.prompt.seed
    base, number = (seed, row.number) if own is None else (own, 0)
    return (base * 1_000_003 + number) % 2**63
