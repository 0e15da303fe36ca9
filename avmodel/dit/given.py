"""A given half of a clip: a video whose sound is to be made, or a sound whose pictures are.

The MDSA mixes its streams (GCM-Attn), so the given half is encoded beside silence, or beside black; a model
trained with `modality_dropout` has seen such clips. The other stream's planes are then solved beside its
planes. A DiT with `stream_times` sees those as they are (`flow.solve_given`); any other sees them held on the
flow's path (`flow.solve` says what that guarantees).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
import torchaudio
from torch import Tensor

from avmodel.dit.flow import Velocity, solve, solve_given
from avmodel.dit.options import Solver
from avmodel.latents import LatentLayout
from avmodel.mdsa.checkpoint import Codec
from avprep.dsp.mel import mel_stack, pad_with_silence
from avprep.errors import AvprepError
from avprep.spec import ClipSpec

READ_TIMEOUT_S = 120.0


class GivenError(AvprepError, ValueError):
    """A given clip that cannot be used: the message says why."""


@dataclass(frozen=True)
class Given:
    """The known half: its latent, and the frames or the sound as they were given."""

    stream: str  # 'v' or 'a'
    latent: Tensor  # float32 (1, C, P, rows, columns)
    frames: Tensor | None  # uint8 (T, H, W, RGB)
    waveform: np.ndarray | None  # float32 (samples,)


def solve_beside(
    given: Given | None,
    v: Velocity,
    eps: Tensor,
    layout: LatentLayout,
    *,
    stream_times: bool,
    steps: int,
    solver: Solver,
) -> Tensor:
    """Latents (B, C, P, rows, columns) from noise eps, but for the planes of the stream that is given.

    Args:
        given: None if both streams are to be made.
        stream_times: v takes a time per stream, and then sees the given one without noise.
        steps, solver: as for `flow.solve`.
    """
    mask = layout.mask(eps.device)
    if given is None:
        return solve(v, eps, steps=steps, solver=solver, mask=mask)
    known = given.latent.to(eps.device).expand_as(eps)
    if stream_times:
        streams = torch.tensor([stream == given.stream for stream in layout.streams], device=eps.device)
        return solve_given(v, eps, known, streams, steps=steps, solver=solver, mask=mask)
    planes = torch.tensor([plane[0] == given.stream for plane in layout.planes], device=eps.device)
    return solve(v, eps, steps=steps, solver=solver, mask=mask, known=known, known_mask=planes[:, None, None])


def read_given(codec: Codec, video: Path | None, audio: Path | None) -> Given | None:
    """The given half as the MDSA encodes it; None if there is none.

    Raises:
        GivenError: both are given, the file cannot be read or is too short, or the model has one stream.
    """
    spec = codec.header.spec
    if video is not None and audio is not None:
        raise GivenError(f"given_video = {video} and `given_audio` = {audio}: there is nothing left to make")
    if (video or audio) is not None and {plane[0] for plane in codec.header.planes} != {"v", "a"}:
        name, path = ("given_video", video) if audio is None else ("given_audio", audio)
        raise GivenError(f"{name} = {path}: the MDSA has only one stream, so there is no other to make")
    if video is not None:
        frames = read_frames(video, spec)
        silence = -torch.ones(1, *spec.mel_shape, dtype=torch.float16)
        return Given("v", codec.encode(frames[None], silence).mean, frames, None)
    if audio is not None:
        waveform = read_waveform(audio, spec)
        mel = mel_stack(pad_with_silence(torch.from_numpy(waveform), spec), spec).to(torch.float16)
        black = torch.zeros(1, *spec.frames_shape, dtype=torch.uint8)
        return Given("a", codec.encode(black, mel[None]).mean, None, waveform)
    return None


def read_frames(path: Path, spec: ClipSpec) -> Tensor:
    """The frames of the first clip of a video, as `avprep clip` cuts it: uint8 (T, H, W, RGB)."""
    # Here and not above: training machines have no PyAV. What is given must be cut as the clips were.
    from avprep.media.decode import FailedClip, read_clips
    from avprep.media.limits import Deadline
    from avprep.media.source import open_source
    from avprep.reasons import MediaError

    try:
        with open_source(str(path)) as source:
            clip = next(read_clips(source, [0], spec=spec, crop="center", deadline=Deadline(READ_TIMEOUT_S)))
        if isinstance(clip, FailedClip):
            raise clip.error
    except MediaError as error:
        raise GivenError(f"given_video = {path}: {error}") from error
    return torch.from_numpy(clip.frames.copy())


def read_waveform(path: Path, spec: ClipSpec) -> np.ndarray:
    """The first clip's length of a sound file, mono, at the spec's rate: float32 (samples,)."""
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError) as error:
        raise GivenError(f"given_audio = {path}: it cannot be read as wav or flac: {error}") from error
    mono = torchaudio.functional.resample(torch.from_numpy(samples.mean(axis=1)), rate, spec.sample_rate)
    if len(mono) < spec.samples:
        raise GivenError(
            f"given_audio = {path}: {len(mono) / spec.sample_rate:.2f} s of sound; a clip is "
            f"{float(spec.seconds):g} s"
        )
    return mono[: spec.samples].numpy()
