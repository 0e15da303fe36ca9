"""Movement and sound events of a clip, and whether they come together."""

from __future__ import annotations

from avprep.dsp.av_align import alignment
from avprep.scores.base import Column, Score, Value, without_weights
from avprep.scores.clip import ScoredClip


def motion(clip: ScoredClip) -> dict[str, Value]:
    """Mean length of the optical flow (Farneback, on frames of about 50 x 50), and the frames it peaks at.

    `motion` counts picture widths per second: 0 for a still picture; 0.1 where all of the picture moves by a
    tenth of its width in a second. Noise gives below 0.01. The flow of a thing that moves before a flat
    background reaches around it, up to three times its area. Beyond a 15th of the width per frame the flow
    loses track and reads low; over a cut it is arbitrary. None: a clip of one frame.

    `motion_peaks` counts the frames in which the flow rises above the flow around by 0.0005 widths per frame:
    0 for a still picture, with or without noise.
    """
    lengths = clip.flow_lengths
    if not len(lengths):
        return {"motion": None, "motion_peaks": None}
    width = clip.small_grey.shape[2]
    return {
        "motion": float(lengths.mean() / width * clip.spec.fps),
        "motion_peaks": len(clip.motion_peaks),
    }


def onsets(clip: ScoredClip) -> dict[str, Value]:
    """How many times something begins to sound, by librosa's onset detector."""
    return {"onsets": len(clip.onsets_s)}


def av_align(clip: ScoredClip) -> dict[str, Value]:
    """AV-Align of the clip: 1 where onsets and movement come together, 0 where never.

    The arithmetic of `avmodel.metrics.av_align`, on small frames, and only peaks above the noise count (see
    `motion`): on clear movements the two agree; where little moves the metric, as published, finds more. One
    clip has few events, so that the score of a single clip is coarse. None: the picture has no peak of
    movement, so that nothing in it can coincide with the sound.
    """
    if not len(clip.motion_peaks):
        return {"av_align": None}
    found = alignment(clip.onsets_s, clip.motion_peaks, clip.spec.fps)
    return {"av_align": None if found is None else found.align}


_ALIGN = "Yariv et al., AAAI 2024, section 4"

MOTION = Score(
    name="motion",
    columns=(
        Column(
            name="motion", kind="float", unit="widths/s", low=0, meaning="mean length of the optical flow"
        ),
        Column(name="motion_peaks", kind="int", unit="frames", low=0, meaning="local maxima of the flow"),
    ),
    needs=("frames",),
    cost="array",
    open=without_weights(motion),
    source="Farneback, Two-frame motion estimation based on polynomial expansion, SCIA 2003",
    modules=("cv2",),
    extra="tags",
    edition=2,
)
ONSETS = Score(
    name="onsets",
    columns=(Column(name="onsets", kind="int", unit="", low=0, meaning="onsets of the sound"),),
    needs=("waveform",),
    cost="array",
    open=without_weights(onsets),
    source="librosa.onset.onset_detect",
)
AV_ALIGN = Score(
    name="av_align",
    columns=(Column(name="av_align", kind="float", unit="", low=0, high=1, meaning=f"AV-Align: {_ALIGN}"),),
    needs=("frames", "waveform"),
    cost="array",
    open=without_weights(av_align),
    source=_ALIGN,
    modules=("cv2",),
    extra="tags",
    edition=2,
)
