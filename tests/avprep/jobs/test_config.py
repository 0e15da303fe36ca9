"""What a job is asked to do: the defaults that outputs on users' disks were begun with, and bad values."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from avprep.errors import ArgumentError
from avprep.jobs.clip import output_header
from avprep.jobs.config import ClipJobConfig, EncodeJobConfig, FromClips, FromMedia
from avprep.jobs.output import fingerprint_of
from avprep.shards.layout import VIDEO_CODECS


def from_media(**more) -> FromMedia:
    return FromMedia(dataset="folder", root=Path("/media"), sources=[], **more)


def test_the_defaults_have_the_fingerprint_that_they_have_always_had():
    """A changed default would refuse every output that was begun before it."""
    header = output_header(ClipJobConfig(source=from_media(), out="out"))
    assert header == {
        "format": 1,
        "spec": {
            "fps": 10,
            "frames": 16,
            "size": 256,
            "sample_rate": 16000,
            "n_fft": 1024,
            "hop": 100,
            "n_mels": 128,
        },
        "options": {
            "crop": "center",
            "video_codec": "jpeg",
            "drop_silent_db": None,
            "drop_static": None,
            "drop_black": None,
            "stride_samples": 25600,
            "clips_per_source": None,
            "limit": None,
            "shard_size": 256,
        },
        "dataset": {"name": "folder", "split": None},
    }
    assert fingerprint_of(header) == "04563b64072031a5de09f666288f4124"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: from_media(source_timeout_s=0), "source_timeout_s must be a number above 0, not 0"),
        (
            lambda: from_media(source_timeout_s=float("inf")),
            "source_timeout_s must be a number above 0, not inf",
        ),
        (
            lambda: ClipJobConfig(source=from_media(), out="out", video_codec="png"),
            f"video_codec must be one of {', '.join(VIDEO_CODECS)}, not 'png'",
        ),
        (
            lambda: ClipJobConfig(source=from_media(), out="out", rebuild=True, only_failed=True),
            "only_failed = True: it keeps what was written, and rebuild=True starts over; give one of them",
        ),
        (
            lambda: EncodeJobConfig(
                source=FromClips(uri="clips"), out="out", header=None, open_encoder=None, batch_size=0
            ),
            "batch_size must be a whole number, at least 1, not 0",
        ),
    ],
)
def test_what_a_job_cannot_do_is_refused_as_it_is_asked_for(make, message):
    with pytest.raises(ArgumentError, match=f"^{re.escape(message)}$"):
        make()
