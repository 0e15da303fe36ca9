"""The product and its reference over generated files: containers, codecs, clocks and sound, pair by pair.

The truth of each file is known without a decoder's stamps: pictures hold their numbers, the sound is noise
that can be found in time. The reference is held against that, the product against the reference.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from scipy.signal import correlate, resample_poly

from avprep.spec import ClipSpec
from tests.avprep.media import matrix
from tests.avprep.media.against_reference import differences
from tests.avprep.media.matrix import Case, noise, number_of
from tests.avprep.media.sequential import ExpectedClip, expected_clips

SPEC = ClipSpec(size=32)
CASES = matrix.pairwise()
FAST = matrix.first_of_each_container(CASES, 36)
LONG = matrix.first_of_each_container(CASES, 18)
LONG_S = 40
EVERY = 9  # of a long file's clips each ninth is read: 12.8 s lie between
_TICKS_S = 0.0025  # containers round stamps to 1 ms, some encoders begin within a millisecond
_OPUS_S = 0.007  # the lead of 6.5 ms that FFmpeg 5 writes twice or not at all into Matroska

pytestmark = pytest.mark.skipif(not shutil.which("ffmpeg"), reason="needs the ffmpeg command to make files")


def _param(case: Case):
    return pytest.param(case, id=str(case), marks=[] if case in FAST else [pytest.mark.slow])


EACH_CASE = pytest.mark.parametrize("case", [_param(case) for case in CASES])


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Callable[..., Path]:
    """Makes the file of a case, once."""
    folder = tmp_path_factory.mktemp("matrix")
    files: dict[tuple[Case, int], Path] = {}

    def make(case: Case, seconds: int = matrix.SECONDS) -> Path:
        if (case, seconds) not in files:
            try:
                files[case, seconds] = matrix.write(case, folder, seconds=seconds)
            except matrix.CannotBeMade as error:
                pytest.skip(f"this ffmpeg cannot make it: {error}")
        return files[case, seconds]

    return make


@EACH_CASE
def test_the_product_gives_the_clips_of_a_plain_sequential_decode(case, made):
    assert differences(made(case), SPEC) == []


@EACH_CASE
def test_that_decode_shows_each_number_at_its_time_and_the_noise_with_it(case, made):
    clips = list(expected_clips(made(case), SPEC))
    shorter = case.start == "cut" or case.container == "mxf"  # FFmpeg ends MXF with the sound
    assert len(clips) >= (1 if shorter else 2)
    moved_s = [seconds for clip in clips for seconds in _pictures_moved_s(clip, case)]
    assert max(moved_s) - min(moved_s) <= _picture_limit_s(case)
    sounds = [clip for clip in clips if clip.sounding_s > SPEC.seconds * Fraction(3, 4)]
    assert sounds or case.sound == "none"
    if not _sound_is_placed(case):
        return
    for clip in sounds:
        late_s = _noise_moved_s(clip) - np.median(moved_s) - float(case.sound_later_s)
        assert abs(late_s) <= _sound_limit_s(case)


@pytest.mark.slow
@pytest.mark.parametrize("case", LONG, ids=str)
def test_clips_far_apart_are_those_of_a_plain_sequential_decode(case, made):
    assert differences(made(case, LONG_S), SPEC, every=EVERY) == []


def test_every_container_and_codec_is_in_the_matrix():
    assert {case.container for case in CASES} == set(matrix.CONTAINERS)
    assert {case.codec for case in CASES} == set(matrix.CODECS)
    assert {case.container for case in FAST} == set(matrix.CONTAINERS)
    assert matrix.pairwise() == CASES
    assert len({str(case) for case in CASES}) == len(CASES)


def test_a_number_survives_being_drawn_and_encoded_as_gray():
    for number, size in ((0, (64, 64)), (1, (65, 49)), (0b1010011001, (98, 66)), (65535, (176, 144))):
        frame = matrix.VideoFrame.from_ndarray(matrix.code_picture(number, *size), format="gray")
        assert number_of(frame) == number
        assert number_of(frame.reformat(format="yuv420p")) == number


# --- what is known of a file -----------------------------------------------------------------------------


def _pictures_moved_s(clip: ExpectedClip, case: Case) -> list[float]:
    """How much later than number / fps each picture is shown: one figure for a whole file."""
    numbers = [number_of(frame) for frame in clip.frames]
    # FFmpeg's AVI has the first picture at 0 however late it is, and fills the gap behind it.
    known = [
        (picture, number)
        for picture, number in zip(clip.shown, numbers, strict=True)
        if number or case.container != "avi"
    ]
    return [float(picture.time_s - number / case.fps) for picture, number in known]


def _noise_moved_s(clip: ExpectedClip) -> float:
    """When the noise's second 0 sounds, by where the clip's sound lies in the noise."""
    whole = resample_poly(noise(matrix.SECONDS), 1, matrix.NOISE_RATE // SPEC.sample_rate)
    scores = correlate(clip.sound, whole, "full", method="fft")
    place = int(np.argmax(np.abs(scores))) - (len(whole) - 1)
    inside = slice(max(0, place), min(len(clip.sound), place + len(whole)))
    mine, theirs = clip.sound[inside], whole[inside.start - place : inside.stop - place]
    assert abs(np.corrcoef(mine, theirs)[0, 1]) > 0.4
    return (clip.start + place) / SPEC.sample_rate


def _picture_limit_s(case: Case) -> float:
    if case.container in ("mpg", "vob"):  # it stamps a picture here and there; FFmpeg guesses the others
        return _TICKS_S + float(1 / case.fps)
    if case.container == "asf" and case.codec == "h264":  # DTS only, which FFmpeg takes to be regular
        return _TICKS_S + float((1 + 2 * case.vfr) * (1 + case.reorder) / case.fps)
    return _TICKS_S


def _sound_limit_s(case: Case) -> float:
    if case.start == "cut":  # FFmpeg shows the first whole picture of an edit list at its begin
        return _TICKS_S + float((1 + 2 * case.vfr) / case.fps)
    if case.audio == "libopus" and case.container.startswith(("mkv", "webm")):
        return _OPUS_S
    return _picture_limit_s(case)


def _sound_is_placed(case: Case) -> bool:
    """Whether the file says when its sound begins, and the noise can be found in it again."""
    if case.container == "avi":  # no priming is stored
        return case.audio.startswith(("pcm", "adpcm"))
    return case.audio != matrix.AMR and case.rate != 0
