from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from avprep.scores.prints import AUDIO_PRINT, PHASH, band_levels, hamming
from tests.avprep.scores.made import SPEC, clip_of, colour, noise, texture, values_of

SIZE = SPEC.size
NEAR_PICTURE, NEAR_SOUND = 40, 20  # bits: copies lie below, other clips above


def pan(seed: int, first: int = 0) -> np.ndarray:
    """uint8 (T, H, W, RGB): a picture that moves 4 pixels per frame, from frame `first` on."""
    wide = texture(SIZE, SIZE + 4 * (SPEC.frames + 2), seed)
    return np.stack([colour(wide[:, 4 * i : 4 * i + SIZE]) for i in range(first, first + SPEC.frames)])


def melody(seed: int, gain: float = 1.0, shift_s: float = 0.0) -> np.ndarray:
    """float64 (samples,): coloured noise, the band of which changes every 0.4 s."""
    rng, rate = np.random.default_rng(seed), SPEC.sample_rate
    spectrum = np.fft.rfft(rng.standard_normal(2 * SPEC.samples))
    curve = np.interp(np.arange(len(spectrum)), np.linspace(0, len(spectrum), 40), rng.uniform(-2, 2, 40))
    sound = np.fft.irfft(spectrum * 10**curve)
    start = round(shift_s * rate)
    return gain * 0.1 * sound[start : start + SPEC.samples] / sound.std()


def phash(frames: np.ndarray) -> bytes:
    return values_of(PHASH, clip_of(frames=frames))["phash"]


def audio_print(waveform: np.ndarray) -> bytes:
    return values_of(AUDIO_PRINT, clip_of(waveform=waveform))["audio_print"]


def reencoded(frames: np.ndarray) -> np.ndarray:
    files = [io.BytesIO() for _ in frames]
    for frame, file in zip(frames, files, strict=True):
        Image.fromarray(frame).save(file, "JPEG", quality=20)
    return np.stack([np.asarray(Image.open(file)) for file in files])


def cropped(frames: np.ndarray) -> np.ndarray:
    """5 % of the width and the height are cut away, and the rest is enlarged."""
    cut = round(0.025 * SIZE)
    box = (cut, cut, SIZE - cut, SIZE - cut)
    return np.stack([np.asarray(Image.fromarray(frame).crop(box).resize((SIZE, SIZE))) for frame in frames])


@pytest.mark.parametrize("seed", range(3))
def test_the_picture_of_a_copy_is_near(seed: int):
    frames = pan(seed)
    for copy in (reencoded(frames), cropped(frames), pan(seed, first=2), (frames // 8 * 7)):
        assert hamming(phash(frames), phash(copy)) <= NEAR_PICTURE


@pytest.mark.parametrize("seed", range(3))
def test_the_sound_of_a_copy_is_near(seed: int):
    original = audio_print(melody(seed))
    quantised = np.round(melody(seed) * 127) / 127
    for copy in (melody(seed, gain=1.4125), melody(seed, shift_s=0.2), quantised):
        assert hamming(original, audio_print(copy)) <= NEAR_SOUND


def test_other_clips_are_far():
    pictures, sounds = (
        [phash(pan(seed)) for seed in range(6)],
        [audio_print(melody(seed)) for seed in range(6)],
    )
    for i in range(6):
        for j in range(i):
            assert hamming(pictures[i], pictures[j]) > NEAR_PICTURE
            assert hamming(sounds[i], sounds[j]) > NEAR_SOUND


def test_one_colour_and_silence_have_no_print():
    """All of them would be copies of each other."""
    assert values_of(PHASH, clip_of()) == {"phash": None}
    assert values_of(AUDIO_PRINT, clip_of()) == {"audio_print": None}
    assert len(audio_print(noise(0.1))) == 12 and len(phash(pan(0))) == 24


def test_hamming():
    assert hamming(b"\x00\xff", b"\x01\x0f") == 5 and hamming(b"ab", b"ab") == 0
    with pytest.raises(ValueError, match="1 and 2 bytes"):
        hamming(b"a", b"ab")


@pytest.mark.parametrize("n_mels", [16, 34, 64, 128, 200])
def test_bands_are_means_of_neighbouring_mel_bands_in_time_order(n_mels: int):
    mel = np.random.default_rng(n_mels).uniform(-1, 1, (4, n_mels, 3)).astype(np.float16)
    levels = band_levels(mel)
    assert levels.shape == (4 * 3, 34)
    edges = [int(i * n_mels / 34) for i in range(35)]
    for column, found in enumerate(levels):
        bands = mel[column // 3, :, column % 3].astype(np.float64)
        expected = [bands[a : max(b, a + 1)].mean() for a, b in zip(edges, edges[1:], strict=False)]
        assert found == pytest.approx(expected, abs=1e-6)
