"""PSNR of reconstructions: of the frames, of the mel stack, and of the mel stack of what is heard.

Higher is nearer; dB, capped at 120 where both are the same. The arithmetic is `avprep.dsp.psnr`'s.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from avprep.dsp.griffin_lim import invert
from avprep.dsp.mel import mel_stack, pad_with_silence
from avprep.dsp.psnr import psnr_a, psnr_v
from avprep.spec import ClipSpec


@dataclass(frozen=True)
class PSNR:
    """dB, float64 (B,) each."""

    video: Tensor  # PSNR-V, of uint8 frames, peak 255
    mel: Tensor  # PSNR-A, of mel stacks, peak 2
    heard: Tensor  # of the mel stack of the waveform that Griffin-Lim makes of the decoded one


def reconstruction_psnr(
    frames: Tensor, decoded_frames: Tensor, mel: Tensor, decoded_mel: Tensor, spec: ClipSpec
) -> PSNR:
    """PSNR of each clip.

    Args:
        frames, decoded_frames: uint8 (B, T, H, W, RGB).
        mel, decoded_mel: (B, T, n_mels, W) in [-1, 1].
        spec: of the clips.
    """
    waveform = invert(decoded_mel, spec).waveform
    heard = mel_stack(pad_with_silence(waveform, spec), spec)
    return PSNR(psnr_v(frames, decoded_frames), psnr_a(mel, decoded_mel), psnr_a(mel, heard))
