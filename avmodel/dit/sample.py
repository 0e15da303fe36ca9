"""Generates clips: noise through the STDiT's flow to latents, through the MDSA to pictures and sound.

    eps -- solve v(z, t, text) -- latent -- MDSA -- frames + mel stack -- Griffin-Lim -- mp4, wav

In OUT: KEY.mp4, KEY.wav, sheet.png (frames over spectrograms), samples.json (keys and labels), request.json
(what was asked for), and the latents as an output that `avprep decode` and `avprep verify` read. Clips are
generated shard by shard; a run that was killed goes on after its last whole shard. Under torchrun the
processes divide each shard batch by batch; the first one writes it, and holds the lock of OUT, which all
processes must see.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
import torch
from PIL import Image
from torch import Tensor

from avmodel.data import ClipBatch, to_model
from avmodel.dit.checkpoint import TrainedDiT, check_made_by, load_dit
from avmodel.dit.exchange import CLIP_FILE, NEW, REQUEST_FILE, finish_exchange, staged
from avmodel.dit.flow import draw_source
from avmodel.dit.given import Given, read_given, solve_beside
from avmodel.dit.guidance import guided
from avmodel.dit.model import Captions
from avmodel.dit.options import SampleOptions
from avmodel.dit.output import (
    FINGERPRINT,
    SHEET_FILE,
    SampleOutput,
    SampleRow,
    part_in,
    sample_rows,
    shards_of,
)
from avmodel.dit.prompts import Prompt, prompts_of
from avmodel.dit.text import LabelTexts
from avmodel.mdsa.checkpoint import Codec, open_codec, weights_hash
from avmodel.pictures import sheet, strips
from avmodel.training.errors import CheckpointError
from avmodel.training.machine import DistributedContext, open_distributed
from avmodel.training.source import file_identity
from avprep.dsp.griffin_lim import invert
from avprep.media.mux import write_mp4
from avprep.shards.layout import HEADER_FILE, ShardError, kind_of, ledger_name, read_header
from avprep.shards.lock import lock
from avprep.shards.store import open_store

ON_SHEET = 16  # clips
_MADE, _FAILED = 0, 1  # what a process says of its part of a shard


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


class _Kept(NamedTuple):
    """What a shard's writer needs of a clip."""

    number: int
    latent: np.ndarray  # float16 (C, P, rows, columns)
    picture: Tensor | None  # uint8 (., T*S, RGB), of the clips on the sheet


class _Found(NamedTuple):
    """What `out` holds before a run."""

    earlier: int  # clips that would be replaced
    is_done: bool
    resumed: int  # clips that a killed run made


@contextmanager
def open_sampling(options: SampleOptions) -> Iterator[Sampling]:
    """Loads the models and takes the lock of `options.out`.

    Raises:
        CheckpointError: a bad checkpoint, or a DiT trained on the latents of another MDSA.
        TextError: prompts that cannot be read, or a text that the model does not know; the nearest are named.
        GivenError: a given clip that cannot be read.
        ShardError: `out` holds clips, or latents that `avprep encode` made, or is being written to.
    """
    with open_distributed(options.device) as context:
        trained = load_dit(options.dit, options.captions_file)
        codec = open_codec(options.mdsa, device=options.device, batch_size=options.batch_size, compile=False)
        check_made_by(
            trained.latents, codec.header, f"mdsa = {options.mdsa}:", f"what {options.dit} was trained on"
        )
        prompts = prompts_of(options, trained.texts)  # raises before anything is written
        given = read_given(codec, options.given_video, options.given_audio)
        with _locked(options.out) if context.is_first else nullcontext():
            yield Sampling(options, trained, codec, given, prompts, context)


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    _check_folder(out)
    with lock(open_store(out)):
        finish_exchange(out)
        yield


class Sampling:
    """The generation of a clip per prompt. Iterating generates this process's share of them; at the end they
    replace earlier samples.

    The same seed and batch size give the same bytes on a CPU, however many processes share the work; another
    batch size changes them by rounding. No more than one shard of latents is in memory.
    """

    def __init__(
        self,
        options: SampleOptions,
        trained: TrainedDiT,
        codec: Codec,
        given: Given | None,
        prompts: Sequence[Prompt],
        context: DistributedContext,
    ) -> None:
        self._options, self._trained, self._codec, self._given = options, trained, codec, given
        self._context = context
        self._rows = sample_rows(prompts, options.seed)
        self._request = _request(options, len(prompts), trained, codec)
        self.count = len(prompts)
        self.earlier, self.is_done, self.resumed = context.from_first(self._found)
        is_drawn = not (options.prompts or options.labels) and given is None
        # A checkpoint of an earlier version says how often each label occurs, not which occur together.
        self.draws_single_labels = (
            is_drawn and isinstance(trained.texts, LabelTexts) and not trained.texts.sets
        )

    def __iter__(self) -> Iterator[Sample]:
        """Raises CheckpointError if the models generate NaN or Inf, in this process or in another: then
        nothing is replaced."""
        with self._folder() as folder:
            output = self._open_output(folder) if self._context.is_first else None
            for index in self._context.from_first(lambda: output.missing if output else []):
                yield from self._make_shard(index, folder, output)
            if output:
                output.finish()

    def _folder(self) -> AbstractContextManager[Path]:
        """Where the clips are written. The first process makes it, and moves them into `out` at the end."""
        out, request = self._options.out, self._request
        if not self._context.is_first:
            return nullcontext(out / NEW)
        return staged(out, lambda folder: part_in(folder, request) > 0)

    def _open_output(self, folder: Path) -> SampleOutput:
        return SampleOutput(folder, self._rows, self._trained.latents, self._request, self._options.seed)

    def _make_shard(self, index: int, folder: Path, output: SampleOutput | None) -> Iterator[Sample]:
        """Generates this process's clips of a shard; the first process writes the latents of all."""
        kept: list[_Kept] = []
        try:
            for row, made in self._generate(shards_of(self._rows)[index], folder):
                picture = _picture(made) if row.number < ON_SHEET else None
                kept.append(_Kept(row.number, made.latent.numpy().astype(np.float16), picture))
                yield made
        except Exception:
            self._context.agreed(_FAILED)
            raise
        if self._context.agreed(_MADE) == _FAILED:
            raise CheckpointError("another process cannot make its clips; its own message says why")
        parts = self._context.gathered(kept)
        if output:
            self._write_shard(
                output, index, folder, sorted(itertools.chain(*parts), key=lambda one: one.number)
            )

    def _write_shard(self, output: SampleOutput, index: int, folder: Path, kept: list[_Kept]) -> None:
        pictures = [one.picture for one in kept if one.picture is not None]
        if pictures:
            Image.fromarray(sheet(pictures).numpy()).save(folder / SHEET_FILE)
        output.write_shard(index, [one.latent for one in kept])

    def _generate(self, rows: Sequence[SampleRow], folder: Path) -> Iterator[tuple[SampleRow, Sample]]:
        """Generates, decodes and writes this process's batches. They are those of one process, whose results
        depend on their size by rounding."""
        size, context = self._options.batch_size, self._context
        batches = [rows[first : first + size] for first in range(0, len(rows), size)]
        for batch in batches[context.rank :: context.world]:
            yield from zip(batch, self._decode(self._solve(batch), batch, folder), strict=True)

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
        with torch.inference_mode(), self._context.autocast():
            z = solve_beside(
                self._given,
                guided(model, text, options.guidance),
                eps,
                layout,
                stream_times=model.config.stream_times,
                steps=options.steps,
                solver=options.solver,
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

    def _found(self) -> _Found:
        out = self._options.out
        found = {path.name for path in out.iterdir() if CLIP_FILE.fullmatch(path.name)}
        return _Found(
            earlier=sum(name.endswith(".mp4") for name in found),
            is_done=self._is_there(found),
            resumed=part_in(out / NEW, self._request),
        )

    def _is_there(self, found: set[str]) -> bool:
        """Whether `out` holds the clips of this very request, all of them."""
        try:
            request = json.loads((self._options.out / REQUEST_FILE).read_bytes())
        except (FileNotFoundError, ValueError):
            return False
        complete = all({f"{row.key}.mp4", f"{row.key}.wav"} <= found for row in self._rows)
        store, shards = open_store(self._options.out), len(shards_of(self._rows))
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


def _picture(made: Sample) -> Tensor:
    return strips(to_model(ClipBatch(made.frames[None], made.mel[None]), made.frames.shape[1]))[0]


def _noise_seed(seed: int, row: SampleRow) -> int:
    own = row.prompt.seed
    base, number = (seed, row.number) if own is None else (own, 0)
    return (base * 1_000_003 + number) % 2**63
