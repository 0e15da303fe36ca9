"""All scores, in the order of their columns. A new score is a file beside this one and a line here."""

from __future__ import annotations

from avprep.scores.base import Column, Score
from avprep.scores.motion import AV_ALIGN, MOTION, ONSETS
from avprep.scores.picture import BARS, CUT, FROZEN, LUMA, SHARPNESS
from avprep.scores.prints import AUDIO_PRINT, PHASH
from avprep.scores.sound import LOUDNESS, PEAK, SILENCE
from avprep.scores.speech import SPEECH_SHARE
from avprep.scores.stored import TIMING
from avprep.scores.tags import TAGS
from avprep.scores.text import TEXT_SHARE

SCORES: tuple[Score, ...] = (
    TIMING,
    LOUDNESS,
    PEAK,
    SILENCE,
    LUMA,
    SHARPNESS,
    FROZEN,
    CUT,
    BARS,
    MOTION,
    ONSETS,
    AV_ALIGN,
    PHASH,
    AUDIO_PRINT,
    TAGS,
    SPEECH_SHARE,
    TEXT_SHARE,
)
COLUMNS: tuple[Column, ...] = tuple(column for score in SCORES for column in score.columns)
