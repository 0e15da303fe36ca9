from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from avmodel.config import MDSA_PRESETS
from avmodel.data import ClipData
from avmodel.evaluate.folder import VideoFolder
from avmodel.evaluate.sides import ClipSide, FolderSide, LatentSide, SideRequest
from avmodel.mdsa.checkpoint import mdsa_payload, open_codec
from avmodel.mdsa.model import MDSA
from avmodel.metrics import MetricError
from avmodel.training.checkpoints import save_checkpoint
from avmodel.training.errors import CheckpointError
from tests.made_clips import TINY


def request(path: Path, mdsa: Path | None = None) -> SideRequest:
    return SideRequest(path=path, mdsa=mdsa, spec=TINY, crop="pad", device="cpu")


def test_clips_are_shown_as_stored(clips: Path):
    side = request(clips).open(batch_size=2)
    assert isinstance(side, ClipSide) and len(side.videos) == 24
    assert len(set(side.videos.tolist())) == 6  # sources
    data = ClipData(clips)
    shown = side.read(np.array([3, 11]))
    assert all(np.array_equal(s.frames, data[i].frames) for s, i in zip(shown, (3, 11), strict=True))
    assert shown[0].waveform.shape == (TINY.samples,)
    assert [s.labels for s in shown] == [tuple(side.data[i]["labels"]) for i in (3, 11)]
    assert shown[0].labels and shown[0].caption == ""


def test_latents_are_decoded_by_the_mdsa_that_made_them(latents: Path, mdsa: Path):
    side = request(latents, mdsa).open(batch_size=2)
    assert isinstance(side, LatentSide)
    latent = torch.from_numpy(side.data[5]["latent"])[None]
    expected, _ = open_codec(mdsa, device="cpu", batch_size=2, compile=False).decode(latent)
    shown = side.read(np.array([5]))[0]
    assert np.array_equal(shown.frames, expected[0].numpy())
    assert shown.labels == tuple(side.data[5]["labels"]) and shown.labels
    assert shown.waveform.shape == (TINY.samples,) and np.isfinite(shown.waveform).all()


def test_latents_without_an_mdsa_or_with_another_are_refused(latents: Path, tmp_path: Path):
    with pytest.raises(MetricError, match="`mdsa` must name the checkpoint"):
        request(latents).open(batch_size=1)
    torch.manual_seed(1)
    other = tmp_path / "other.pt"
    save_checkpoint(other, mdsa_payload(MDSA(MDSA_PRESETS["tiny"]), TINY, 0))
    with pytest.raises(CheckpointError, match="another MDSA's"):
        request(latents, other).open(batch_size=1)


def test_a_folder_of_files_gives_every_window_of_every_file(videos: Path):
    side = request(videos).open(batch_size=1)
    assert isinstance(side, FolderSide)
    assert np.bincount(side.videos).tolist() == [3, 3, 3, 3]
    assert sorted(name.split(":")[0] for name in side.left_out) == ["damaged.mp4", "short.mp4"]
    first, second = side.read(np.array([0, 1]))
    assert first.frames.shape == TINY.frames_shape and first.waveform.shape == (TINY.samples,)
    alone = side.read(np.array([1]))[0]
    assert np.array_equal(alone.frames, second.frames) and np.array_equal(alone.waveform, second.waveform)
    third, other = side.read(np.array([2, 5]))  # of two files
    assert np.array_equal(third.frames[:-1], second.frames[1:])
    assert not np.array_equal(other.frames, third.frames)
    # The second window begins one frame later.
    assert np.array_equal(first.frames[1:], second.frames[:-1])
    assert not np.array_equal(first.frames[0], second.frames[0])
    assert side.fields.size == "48x32" and side.fields.codec == "h264" and side.fields.crop == "pad"


def test_a_folder_that_holds_nothing_is_refused(tmp_path: Path):
    with pytest.raises(MetricError, match="no output of avprep, and no folder of video files"):
        request(tmp_path).open(batch_size=1)
    (tmp_path / "a.mp4").write_bytes(b"")
    with pytest.raises(MetricError, match="no clip can be read. a.mp4"):
        request(tmp_path).open(batch_size=1)


def test_differences_are_named_by_field(clips: Path, videos: Path):
    found = request(clips).open(batch_size=1).fields.differences(request(videos).open(batch_size=1).fields)
    assert [text.split(":")[0] for text in found] == ["size", "crop", "codec"]


def test_what_was_not_cropped_differs_in_no_crop(clips: Path, latents: Path, mdsa: Path):
    fields = request(latents, mdsa).open(batch_size=1).fields
    found = request(clips).open(batch_size=1).fields.differences(fields)
    assert [text.split(":")[0] for text in found] == ["codec"]


def test_without_pyav_the_message_says_so(videos: Path):
    code = (
        "import sys; sys.modules['av'] = None\n"
        "from pathlib import Path\nfrom avmodel.evaluate.folder import VideoFolder\n"
        "from avmodel.metrics import MetricError\nfrom avprep.spec import ClipSpec\n"
        f"try: VideoFolder(Path({str(videos)!r}), ClipSpec(), 'pad')\n"
        "except MetricError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "read with PyAV, which is not installed" in done.stdout


def test_a_file_that_is_gone_ends_with_its_name(videos: Path, tmp_path: Path):
    path = tmp_path / "one.mp4"
    path.write_bytes((videos / "0.mp4").read_bytes())
    folder = VideoFolder(tmp_path, TINY, "center")
    path.write_bytes(b"gone")
    with pytest.raises(MetricError, match="one.mp4: of the clips from 0.000 s on, one cannot be read"):
        folder.read(np.array([0, 2]))
