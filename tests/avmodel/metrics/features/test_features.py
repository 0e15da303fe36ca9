"""Extractors by name and path: their form, their refusals, and that batches and workers change nothing."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avmodel.mdsa.lpips import WeightsError
from avmodel.metrics import MetricError
from avmodel.metrics import features as package
from avmodel.metrics.features import NOT_SERVED, Clips, Extractor, extractor_names, i3d, load_extractor
from avmodel.metrics.frechet import frechet_distance
from avmodel.metrics.moments import Moments
from avprep import read_clips
from avprep.errors import ArgumentError
from avprep.spec import ClipSpec
from tests.conftest import shared_file

FILES = {"yamnet": "yamnet_int8.npz", "squeezenet": "squeezenet1_1_torchvision_fp16src.npz"}
# As ../shared/weights/index.tsv states them.
SHA256 = {
    "yamnet": "98c25979e5252fc26097305cb8dbfd15a29326cea01dd326af323aa847f5b19b",
    "squeezenet": "f414890cc32604b4fe3867f3f6e63703c32ba1f2fee96413d40bfa7754b3dc89",
}


def made_clips(n: int, *, seed: int = 0, size: int = 48, rate: int = 16000) -> Clips:
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 255, (n, 3, size, size, 3), np.uint8)
    seconds = np.arange(int(1.6 * rate)) / rate
    tones = np.stack([np.sin(2 * np.pi * f * seconds) for f in rng.uniform(200, 2000, n)])
    return Clips(frames=frames, waveform=0.3 * tones.astype(np.float32), fps=10, sample_rate=rate)


def part(clips: Clips, rows: slice) -> Clips:
    return Clips(
        frames=clips.frames[rows], waveform=clips.waveform[rows], fps=clips.fps, sample_rate=clips.sample_rate
    )


@pytest.fixture(scope="module", params=sorted(FILES))
def extractor(request: pytest.FixtureRequest) -> Extractor:
    return load_extractor(request.param, shared_file("weights", FILES[request.param]))


def test_features_have_their_stated_form(extractor: Extractor):
    rows = {"yamnet": 1, "squeezenet": 3}[extractor.name]
    found = extractor(made_clips(2))
    assert found.shape == (2, rows, extractor.width) and found.dtype == np.float32
    assert np.isfinite(found).all() and found.std() > 0
    assert extractor.sha256 == SHA256[extractor.name]


def test_batching_does_not_change_features(extractor: Extractor):
    clips = made_clips(3)
    alone = [extractor(part(clips, slice(i, i + 1))) for i in range(3)]
    np.testing.assert_array_equal(extractor(clips), np.concatenate(alone))


@pytest.mark.slow
def test_two_workers_give_the_distance_of_one(extractor: Extractor):
    """Each takes every second clip; their moments are merged."""
    clips = made_clips(8)
    reference = Moments.of(extractor(made_clips(6, seed=1)).reshape(-1, extractor.width))
    one = Moments.of(extractor(clips).reshape(-1, extractor.width))
    two = [extractor(part(clips, slice(w, None, 2))).reshape(-1, extractor.width) for w in range(2)]
    merged = Moments.of(two[0]).merge(Moments.of(two[1]))
    assert frechet_distance(merged, reference) == pytest.approx(frechet_distance(one, reference), rel=1e-9)


def test_yamnet_takes_sound_at_any_rate():
    yamnet = load_extractor("yamnet", shared_file("weights", FILES["yamnet"]))
    at_16k, at_44k = (yamnet(made_clips(3, rate=rate)).ravel() for rate in (16000, 44100))
    assert np.corrcoef(at_16k, at_44k)[0, 1] > 0.99


def test_squeezenet_leads_to_the_classes_of_a_photograph():
    """Its features times the file's own classifier, against a whole forward written out in float64."""
    path = shared_file("weights", FILES["squeezenet"])
    squeezenet = load_extractor("squeezenet", path)
    clip = next(iter(read_clips(shared_file("media", "butterfly.mp4"), spec=ClipSpec(size=224), clips=1)))
    with np.load(path) as file:
        state = {k: torch.from_numpy(file[k]).double() for k in file.files}
    features = torch.from_numpy(squeezenet(_video(clip.frames[None, :1]))[0, 0]).double()
    logits = state["classifier.1.weight"][:, :, 0, 0] @ features + state["classifier.1.bias"]
    expected = _plain_squeezenet(torch.from_numpy(clip.frames[:1]), state)
    torch.testing.assert_close(logits, expected, atol=1e-3, rtol=1e-3)
    assert int(logits.argmax()) in range(321, 327)  # ImageNet's butterflies


def _plain_squeezenet(frames: Tensor, state: dict[str, Tensor]) -> Tensor:
    """Logits (1000,) before the classifier's ReLU, averaged over the picture."""

    def conv(x: Tensor, name: str, **options: int) -> Tensor:
        return F.conv2d(x, state[f"features.{name}.weight"], state[f"features.{name}.bias"], **options).relu()

    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = conv((((frames / 255) - mean) / deviation).permute(0, 3, 1, 2).double(), "0", stride=2)
    for i in (3, 4, 6, 7, 9, 10, 11, 12):
        if i in (3, 6, 9):
            x = F.max_pool2d(x, 3, 2, ceil_mode=True)
        x = conv(x, f"{i}.squeeze")
        x = torch.cat([conv(x, f"{i}.expand1x1"), conv(x, f"{i}.expand3x3", padding=1)], dim=1)
    return F.conv2d(x, state["classifier.1.weight"], state["classifier.1.bias"]).mean(dim=(0, 2, 3))


def test_squeezenet_takes_frames_of_any_size():
    """A picture and its enlargement have near features, and equal frames equal ones."""
    squeezenet = load_extractor("squeezenet", shared_file("weights", FILES["squeezenet"]))
    ramp = np.linspace(0, 255, 224).astype(np.uint8)
    picture = np.stack(
        [np.tile(ramp, (224, 1)), np.tile(ramp[:, None], (1, 224)), np.full((224, 224), 90)], -1
    )
    frames = picture.astype(np.uint8)[None, None].repeat(2, axis=1)
    large = frames.repeat(2, axis=2).repeat(2, axis=3)
    small, enlarged = (squeezenet(_video(v))[0] for v in (frames, large))
    assert np.corrcoef(small[0], enlarged[0])[0, 1] > 0.99
    np.testing.assert_array_equal(small[0], small[1])


def _video(frames: np.ndarray) -> Clips:
    return Clips(frames=frames, waveform=np.zeros((len(frames), 1600), np.float32), fps=10, sample_rate=16000)


@pytest.mark.parametrize("name", [*FILES, "i3d", "imagebind"])
def test_a_missing_file_is_named_with_its_source(name: str, tmp_path: Path):
    with pytest.raises(MetricError, match=r"no weights at .*none\.npz: they are .* from http"):
        load_extractor(name, tmp_path / "none.npz")


@pytest.mark.parametrize("name", sorted(NOT_SERVED))
def test_features_that_need_another_package_say_so(name: str, tmp_path: Path):
    with pytest.raises(MetricError, match=rf"{name}.* from http.*checksum not known.*{package.GROUP}"):
        load_extractor(name, tmp_path / "weights")
    assert name not in extractor_names()


def test_an_unknown_name_is_refused_with_those_known():
    with pytest.raises(MetricError, match="i3d, imagebind, squeezenet, yamnet, not 'inception'"):
        load_extractor("inception", Path("x"))


def test_weights_of_another_network_are_refused(tmp_path: Path):
    path = tmp_path / "other.npz"
    np.savez(path, **{"features.0.weight": np.zeros((3, 3), np.float32)})
    with pytest.raises(WeightsError, match="SqueezeNet"):
        load_extractor("squeezenet", path)
    with pytest.raises(ArgumentError, match="no array"):
        load_extractor("yamnet", path)


def _entry_point(name: str) -> EntryPoint:
    return EntryPoint(name, f"{__name__}:Given", package.GROUP)


class Given:
    """What another package may bring."""

    side, width, sha256 = "audio", 2, "0" * 64

    def __init__(self, weights: Path) -> None:
        self.name = f"given from {weights}"


def test_other_packages_add_extractors_by_entry_point(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(package, "entry_points", lambda *, group: [_entry_point("vggish")])
    assert load_extractor("vggish", Path("w")).name == "given from w"
    assert "vggish" in extractor_names()


def test_two_packages_with_one_name_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(package, "entry_points", lambda *, group: [_entry_point("vggish")] * 2)
    with pytest.raises(MetricError, match="2 packages"):
        load_extractor("vggish", Path("w"))


class FakeI3D(nn.Module):
    """The published file's signature; the mean colour as features."""

    def forward(self, x: Tensor, rescale: bool, resize: bool, return_features: bool) -> Tensor:
        assert rescale and resize and return_features
        return x.mean(dim=(2, 3, 4)).repeat(1, 134)[:, :400]


def test_i3d_runs_the_published_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "i3d_torchscript.pt"
    torch.jit.script(FakeI3D()).save(str(path))
    with pytest.raises(MetricError, match="only the published file is run"):
        load_extractor("i3d", path)
    with path.open("rb") as file:
        sha256 = package.base.hashlib.file_digest(file, "sha256").hexdigest()
    monkeypatch.setattr(i3d, "PUBLISHED", package.base.Published("fake", "http://nowhere", sha256))
    extractor = load_extractor("i3d", path)
    frames = np.random.default_rng(0).integers(0, 255, (2, 16, 8, 8, 3), np.uint8)
    found = extractor(_video(frames))
    assert found.shape == (2, 1, 400)
    np.testing.assert_allclose(found[:, 0, :3], frames.mean(axis=(1, 2, 3)), rtol=1e-5)
    with pytest.raises(MetricError, match="10 frames"):
        extractor(_video(frames[:, :9]))
