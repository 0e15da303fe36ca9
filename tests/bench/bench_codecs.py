"""How frames are stored, on real clips: `python -m tests.bench.bench_codecs MEDIA`.

Prints one row per codec: bytes per clip (frames alone), ms to write and to read one clip on one thread, PSNR
against raw.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import numpy as np

from avprep.media.decode import RawClip, read_clips
from avprep.media.limits import Deadline
from avprep.media.mux import decode_frames, encode_frames
from avprep.media.probe import probe
from avprep.media.source import open_source
from avprep.media.timeline import spread, starts_of_parts
from avprep.reasons import MediaError
from avprep.shards.clips import pack_clip, unpack_frames
from avprep.shards.layout import VIDEO_CODECS
from avprep.spec import ClipSpec

CLIPS_A_FILE = 3


def real_clips(media: Path, spec: ClipSpec) -> list[np.ndarray]:
    """Frames of a few clips of every file that has any."""
    found = []
    for path in sorted(media.iterdir()):
        try:
            starts = starts_of_parts(probe(path).parts, spec=spec, stride_samples=spec.samples)
            starts = spread(starts, CLIPS_A_FILE)
            with open_source(path) as source:
                clips = read_clips(source, starts, spec=spec, crop="center", deadline=Deadline(60))
                found += [clip.frames for clip in clips if isinstance(clip, RawClip)]
        except MediaError as error:
            print(f"  left out {path.name}: {error}", file=sys.stderr)
    return found


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    error = np.mean((a.astype(np.float64) - b) ** 2)
    return float("inf") if error == 0 else 10 * np.log10(255**2 / error)


def main(media: Path) -> None:
    spec = ClipSpec()
    clips = real_clips(media, spec)
    mel, waveform = np.zeros(spec.mel_shape), np.zeros(spec.samples, np.float32)
    print(f"{len(clips)} real clips of {media}")
    print("| codec | kB a clip | ms to write | ms to read | PSNR dB |\n|---|---|---|---|---|")
    for codec in VIDEO_CODECS:
        size, write_s, read_s, quality = 0, 0.0, 0.0, []
        for frames in clips:
            started = time.perf_counter()
            members = pack_clip(
                header={"labels": []},
                mel=mel,
                waveform=waveform,
                sample_rate=spec.sample_rate,
                frames=frames,
                codec=codec,
                encode_h264=lambda f: encode_frames(f, fps=spec.fps),
            )
            packed = time.perf_counter()
            read = unpack_frames(members, frames.shape, decode_frames)
            read_s, write_s = read_s + time.perf_counter() - packed, write_s + packed - started
            size += sum(len(data) for name, data in members.items() if name.startswith("frame"))
            quality.append(psnr(frames, read))
        n = len(clips)
        print(
            f"| {codec} | {size / n / 1000:.0f} | {1000 * write_s / n:.1f} | {1000 * read_s / n:.1f} "
            f"| {'exact' if np.isinf(np.min(quality)) else f'{np.mean(quality):.1f}'} |"
        )


if __name__ == "__main__":
    if len(sys.argv) != 2 or not os.path.isdir(sys.argv[1]):
        sys.exit("usage: python -m tests.bench.bench_codecs MEDIA (a folder of real videos)")
    main(Path(sys.argv[1]))
