"""Is what was generated what was asked for, and in time? On the CPU, no downloads:

    python -m tests.bench.bench_generate --real CLIPS_DIR --generated SAMPLES_DIR [--generated ...]

CLIPS_DIR is an output of `avprep clip` with one label a clip. SAMPLES_DIR is one of `avmodel sample`:
KEY.mp4, KEY.wav and samples.json, a list of {"key", "labels"}; several are taken together, as 160 clips alone
tell AV-Align to no better than 0.01.

Class: small networks learn the labels from real clips (their pictures, their sound, or both; some sources
are held out), then name the generated clips. All mel stacks are made from waveforms alone, so that real and
generated sounds come the same way.
Time: AV-Align of the clips against the same clips with their sounds changed about, among all clips and
among those of one label. The second asks for more: the sound must fit this picture, not only its class.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from itertools import compress
from pathlib import Path

import click
import numpy as np
import soundfile
import torch
from scipy.stats import binomtest
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from avmodel.data import ClipData
from avmodel.metrics.av_align import AVAlignMean, audio_onsets, mean_av_align, motion_peaks, score
from avprep.dsp.mel import mel_stack, pad_with_silence, stack_to_columns
from avprep.media.mux import decode_frames
from avprep.shards.clips import load_waveform, unpack_frames
from avprep.spec import ClipSpec

HELD_OUT = 0.2  # share of the real sources
PIXELS = 32  # side of the pictures that the networks see
COLUMNS = 64  # of the spectrogram that they hear
WIDTHS = (16, 32, 64)  # of their convolutions
EPOCHS = 12
BATCH = 32
SHUFFLES = 100
STREAMS = {"pictures": ("v",), "sound": ("a",), "both": ("v", "a")}


@dataclass(frozen=True)
class Clips:
    """Clips as the networks and AV-Align need them."""

    labels: list[str]  # (N)
    inputs: dict[str, Tensor]  # v float16 (N, T*3, PIXELS, PIXELS), a float16 (N, 1, n_mels, COLUMNS)
    onsets_s: list[np.ndarray]  # (N) of (onsets,)
    peaks: list[np.ndarray]  # (N) of (peaks,)

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, chosen: np.ndarray) -> Clips:
        """The clips at which `chosen`, bool (N,), holds."""
        lists = (self.labels, self.onsets_s, self.peaks)
        labels, onsets_s, peaks = (list(compress(row, chosen)) for row in lists)
        inputs = {stream: rows[torch.from_numpy(chosen)] for stream, rows in self.inputs.items()}
        return Clips(labels, inputs, onsets_s, peaks)


class Classifier(nn.Module):
    """One convolutional branch a stream, their features beside each other, one linear layer."""

    def __init__(self, channels: dict[str, int], classes: int) -> None:
        super().__init__()
        self.branches = nn.ModuleDict({stream: _branch(count) for stream, count in channels.items()})
        self.head = nn.Linear(WIDTHS[-1] * len(channels), classes)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        features = [branch(inputs[stream].float()) for stream, branch in self.branches.items()]
        return self.head(torch.cat(features, dim=1))


def _branch(channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in WIDTHS:
        layers += [nn.Conv2d(channels, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2))


class ClipList:
    """Gathers clips one by one; only what `Clips` holds is kept."""

    def __init__(self, spec: ClipSpec) -> None:
        self._spec = spec
        self._clips = Clips([], {}, [], [])
        self._inputs: dict[str, list[Tensor]] = {"v": [], "a": []}

    def add(self, name: str, labels: list[str], frames: np.ndarray, waveform: np.ndarray) -> None:
        """frames uint8 (T, S, S, RGB), waveform float32 (samples,); `name` is for a refusal."""
        if len(labels) != 1:
            sys.exit(f"{name} has the labels {labels}; this benchmark needs one a clip")
        if frames.shape != self._spec.frames_shape or waveform.shape != (self._spec.samples,):
            sys.exit(f"{name}: frames {frames.shape} and waveform {waveform.shape} are not of {self._spec}")
        pictures = torch.from_numpy(frames.copy()).permute(0, 3, 1, 2).float() / 127.5 - 1
        stack = mel_stack(pad_with_silence(torch.from_numpy(waveform), self._spec), self._spec)
        self._inputs["v"].append(F.interpolate(pictures, size=PIXELS, mode="area").flatten(0, 1).half())
        sound = F.interpolate(stack_to_columns(stack)[None, None], (self._spec.n_mels, COLUMNS), mode="area")
        self._inputs["a"].append(sound[0].half())
        self._clips.labels.append(labels[0])
        self._clips.onsets_s.append(audio_onsets(waveform, self._spec.sample_rate))
        self._clips.peaks.append(motion_peaks(frames))

    def close(self) -> Clips:
        self._clips.inputs.update((stream, torch.stack(rows)) for stream, rows in self._inputs.items())
        return self._clips


def real_clips(data: ClipData) -> Clips:
    clips = ClipList(data.spec)
    for i in tqdm(range(len(data)), "real clips", leave=False):
        members = data.members(i)
        labels = json.loads(members["json"])["labels"]
        frames, waveform = (
            unpack_frames(members, data.spec.frames_shape, decode_frames),
            load_waveform(members["audio.flac"], data.spec),
        )
        clips.add(f"clip {data.index.keys[i]}", labels, frames, waveform)
    return clips.close()


def generated_clips(folders: tuple[Path, ...], spec: ClipSpec) -> Clips:
    clips = ClipList(spec)
    samples = [
        (folder / f"{sample['key']}.mp4", sample["labels"])
        for folder in folders
        for sample in json.loads((folder / "samples.json").read_text(encoding="utf-8"))
    ]
    for path, labels in tqdm(samples, "generated clips", leave=False):
        waveform, rate = soundfile.read(path.with_suffix(".wav"), dtype="float32")
        if rate != spec.sample_rate:
            sys.exit(f"{path.with_suffix('.wav')} is of {rate} Hz, the real clips of {spec.sample_rate}")
        clips.add(str(path), labels, decode_frames(path.read_bytes()), waveform)
    return clips.close()


def train(clips: Clips, streams: tuple[str, ...], classes: list[str]) -> Classifier:
    torch.manual_seed(0)
    model = Classifier({stream: clips.inputs[stream].shape[1] for stream in streams}, len(classes))
    steps = EPOCHS * (len(clips) // BATCH)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=2e-3, total_steps=steps)
    wanted = torch.tensor([classes.index(label) for label in clips.labels])
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(clips)).split(BATCH)[: len(clips) // BATCH]:
            logits = model({stream: clips.inputs[stream][chosen] for stream in streams})
            loss = F.cross_entropy(logits, wanted[chosen], label_smoothing=0.1)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return model.eval()


@torch.no_grad()
def is_named(model: Classifier, clips: Clips, classes: list[str]) -> np.ndarray:
    """bool (N,): the network gives the clip its label."""
    batches = [
        model({stream: rows[first : first + 256] for stream, rows in clips.inputs.items()}).argmax(1)
        for first in range(0, len(clips), 256)
    ]
    wanted = np.array([classes.index(label) for label in clips.labels])
    return torch.cat(batches).numpy() == wanted


def partners(groups: list[str], rng: np.random.Generator) -> np.ndarray:
    """int (N,): for each clip another of its group, each taken once; itself where it is alone."""
    partner = np.arange(len(groups))
    for group in dict.fromkeys(groups):
        round_trip = rng.permutation([i for i, other in enumerate(groups) if other == group])
        partner[round_trip] = np.roll(round_trip, 1)
    return partner


def align(clips: Clips, partner: np.ndarray, chosen: np.ndarray, fps: int) -> AVAlignMean:
    """AV-Align of the pictures of `chosen` clips with their partners' sounds."""
    return mean_av_align(score(clips.onsets_s[partner[i]], clips.peaks[i], fps) for i in chosen)


def report_classes(training: Clips, held: Clips, generated: Clips) -> None:
    if len(training) < BATCH:
        sys.exit(f"{len(training)} real clips to learn from; at least {BATCH} are needed")
    classes = sorted(set(training.labels))
    unknown = sorted(set(generated.labels + held.labels) - set(classes))
    if unknown:
        sys.exit(f"no real clip to learn {', '.join(unknown)} from")
    chance, count = 1 / len(classes), len(generated)
    print(
        f"\n{len(classes)} classes, chance {chance:.3f}; {len(training)} real clips to learn from, "
        f"{len(held)} of other sources held out, {count} generated\n"
    )
    print(
        "| what the network sees | real, held out | generated | 95 % interval | p of chance |\n"
        "|---|---|---|---|---|"
    )
    for name, streams in STREAMS.items():
        model = train(training, streams, classes)
        named = is_named(model, generated, classes)
        test = binomtest(int(named.sum()), count, chance, alternative="greater")
        low, high = binomtest(int(named.sum()), count).proportion_ci(method="wilson")
        print(
            f"| {name} | {is_named(model, held, classes).mean():.3f} | {named.mean():.3f} "
            f"| {low:.3f} to {high:.3f} | {test.pvalue:.1e} |",
            flush=True,
        )
    by_class = [(c, named[[label == c for label in generated.labels]]) for c in classes]
    print(
        "\ngenerated clips named rightly from both: "
        + ", ".join(f"{c} {hits.sum()}/{len(hits)}" for c, hits in by_class if len(hits))
    )


def report_alignment(name: str, clips: Clips, fps: int) -> None:
    """Two rows: sounds changed about among all clips, and among those of one label."""
    for among, groups in (("all clips", [""] * len(clips)), ("its label", clips.labels)):
        rng = np.random.default_rng(0)
        chosen = np.flatnonzero(partners(groups, rng) != np.arange(len(clips)))  # alone: nothing to change
        own = align(clips, np.arange(len(clips)), chosen, fps)
        if own.mean is None:
            print(f"| {name} | {among} | 0 | {own.skipped} | no two clips to exchange sounds |")
            continue
        shuffled = [align(clips, partners(groups, rng), chosen, fps).mean for _ in range(SHUFFLES)]
        cells = []
        for number in ("align", "iou"):
            value, others = getattr(own.mean, number), np.array([getattr(s, number) for s in shuffled])
            beaten = int((others < value).sum())
            cells.append(f"{value:.3f} | {others.mean():.3f} ± {others.std():.3f} | {beaten}/{SHUFFLES}")
        print(f"| {name} | {among} | {own.counted} | {own.skipped} | {' | '.join(cells)} |", flush=True)


@click.command()
@click.option("--real", required=True, help="An output of `avprep clip`, one label a clip.")
@click.option(
    "--generated",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    multiple=True,
    required=True,
    help="An output of `avmodel sample`; may be given several times.",
)
def main(real: str, generated: tuple[Path, ...]) -> None:
    """Scores generated clips against the real ones."""
    started = time.perf_counter()
    data = ClipData(real)
    samples, clips = generated_clips(generated, data.spec), real_clips(data)
    held_keys = set(data.split_by_source(HELD_OUT)[1].index.keys)
    held = np.array([key in held_keys for key in data.index.keys])
    report_classes(clips.subset(~held), clips.subset(held), samples)
    print(f"\nAV-Align; {SHUFFLES} shuffles of the sounds: their mean ± standard deviation, those beaten\n")
    numbers = "align | shuffled | beaten | IoU | shuffled | beaten"
    print(f"| clips | shuffled among | counted | skipped | {numbers} |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    report_alignment("generated", samples, data.spec.fps)
    report_alignment("real", clips, data.spec.fps)
    print(f"\n{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
