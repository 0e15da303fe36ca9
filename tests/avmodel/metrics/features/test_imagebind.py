"""ImageBind, tiny and of weights made by a formula, against what its published code gives for them.

Made weights test the arithmetic; no metric is computed with them. The published code (imagebind-packaged
0.1.2, with torchvision, pytorchvideo 0.1.5 and timm) is no dependency. Where it is not installed, the numbers
that it gave stand for it (`KNOWN`). Sounds at other rates were resampled by ours before.
"""

from __future__ import annotations

from math import ceil, log, prod
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from avmodel.mdsa.lpips import WeightsError
from avmodel.metrics import MetricError
from avmodel.metrics.features import Clips, PairedExtractor, TextExtractor, load_extractor
from avmodel.metrics.features.base import waveforms_at
from avmodel.metrics.features.imagebind import ImageBindFeatures, load_imagebind, mel_windows
from avmodel.metrics.features.imagebind_network import HUGE, ImageBindNetwork, ImageBindSizes, TowerSizes
from avmodel.metrics.similarity import similarity

TOWER = TowerSizes(width=8, blocks=2, heads=2)
TINY = ImageBindSizes(embedding=4, vision=TOWER, audio=TOWER)
SCALE = 20
# Of `made_clip`: one window and square; longer than 2 s, wide, another rate; short and high.
CLIPS = {
    "one window": {"frames": 16, "height": 40, "width": 40, "rate": 16000},
    "longer": {"frames": 36, "height": 30, "width": 44, "rate": 22050},
    "short": {"frames": 5, "height": 300, "width": 230, "rate": 16000},
}
# First and last frame, video, sound.
KNOWN: dict[str, list[list[float]]] = {
    "one window": [
        [-0.300287, 0.232797, -0.241140, 0.893020],
        [-0.281308, 0.288687, -0.175950, 0.898091],
        [-0.157895, 0.311852, -0.104356, 0.931089],
        [8.001868, -12.224393, -11.523896, 7.330356],
    ],
    "longer": [
        [-0.252626, 0.198153, -0.260449, 0.910539],
        [-0.298393, 0.232108, -0.240604, 0.893978],
        [-0.085067, 0.200197, -0.142157, 0.818661],
        [10.301187, -13.538769, -10.283106, 2.195726],
    ],
    "short": [
        [-0.401233, 0.383713, -0.091967, 0.826631],
        [-0.396552, 0.383885, -0.089379, 0.829090],
        [-0.367256, 0.362230, -0.107792, 0.849509],
        [5.345421, -9.858028, -11.356496, 12.053041],
    ],
}


def shapes_of(sizes: ImageBindSizes) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {name: tuple(value.shape) for name, value in ImageBindNetwork(sizes).state_dict().items()}


def made_weights() -> dict[str, Tensor]:
    """Value i of the k-th name in alphabetical order: 0.5 sin(k + 0.37 i^2), 1 more in a norm's weights."""
    state = {}
    for k, (name, shape) in enumerate(sorted(shapes_of(TINY).items())):
        i = torch.arange(prod(shape), dtype=torch.float64)
        values = 0.5 * torch.sin(k + 0.37 * i * i)
        is_norm = "norm" in name or "pre_transformer" in name or name.split(".")[-2] == "0"
        state[name] = (values + (is_norm and name.endswith("weight"))).float().reshape(shape)
    state["modality_postprocessors.audio.1.log_logit_scale"] = torch.tensor(log(SCALE))
    return state


def made_clip(*, frames: int, height: int, width: int, rate: int) -> Clips:
    """At 10 fps: stripes that move, with a colour to each side, and three tones, the last from 1 s on."""
    t, y, x, c = np.ogrid[:frames, :height, :width, :3]
    pictures = (40 + 9 * t + (y * (2 + c) + x * (3 - c)) + 30 * ((x + 3 * t) // 8 % 3)) % 256
    s = np.arange(frames * rate // 10) / rate
    tones = 0.3 * np.sin(2 * np.pi * 310 * s) + 0.1 * np.sin(2 * np.pi * 2500 * s * (1 + s / 4)) + 0.01
    tones = tones + 0.2 * (s > 1) * np.sin(2 * np.pi * 900 * s)
    return Clips(
        frames=pictures.astype(np.uint8)[None],
        waveform=tones.astype(np.float32)[None],
        fps=10,
        sample_rate=rate,
    )


def joined(*clips: Clips) -> Clips:
    return Clips(
        frames=np.concatenate([one.frames for one in clips]),
        waveform=np.concatenate([one.waveform for one in clips]),
        fps=clips[0].fps,
        sample_rate=clips[0].sample_rate,
    )


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As published: with tensors of other towers."""
    path = tmp_path_factory.mktemp("imagebind") / "tiny.pth"
    torch.save(made_weights() | {"modality_trunks.text.blocks.0.norm_1.weight": torch.ones(3)}, path)
    return path


@pytest.fixture(scope="module")
def imagebind(weights: Path) -> ImageBindFeatures:
    return load_imagebind(weights, TINY)


def embeddings_of(imagebind: ImageBindFeatures, clip: Clips) -> list[np.ndarray]:
    frames = imagebind.frames(clip)[0]
    return [frames[0], frames[-1], imagebind(clip)[0, 0], imagebind.sounds(clip)[0]]


@pytest.mark.parametrize("name", CLIPS)
def test_the_embeddings_are_those_of_the_published_code(imagebind: ImageBindFeatures, name: str):
    """Frames to 5e-4: a pixel of a hundred is one grey level off where PIL rounds the other way."""
    found = embeddings_of(imagebind, made_clip(**CLIPS[name]))
    for ours, known, tolerance in zip(found, KNOWN[name], (5e-4, 5e-4, 1e-5, 2e-4), strict=True):
        np.testing.assert_allclose(ours, known, atol=tolerance)


class Published:
    """The published code with the made weights, fed as its loaders feed it."""

    def __init__(self) -> None:
        model = pytest.importorskip("imagebind.models.imagebind_model", exc_type=ImportError)
        self.data = pytest.importorskip("imagebind.data", exc_type=ImportError)
        sizes = {
            f"{tower}_{what}": value
            for tower in ("vision", "audio", "text", "depth", "thermal", "imu")
            for what, value in (("embed_dim", 8), ("num_blocks", 2), ("num_heads", 2))
        }
        self.model = model.ImageBindModel(out_embed_dim=TINY.embedding, **sizes).eval()
        missing, unexpected = self.model.load_state_dict(made_weights(), strict=False)
        assert not unexpected
        assert not [name for name in missing if name.split(".")[1] in ("vision", "audio")]

    @torch.no_grad()
    def embeddings_of(self, clip: Clips) -> list[np.ndarray]:
        frames = self.model({"vision": self._frames(clip)})["vision"]
        video = self.model({"vision": self._video(clip)})["vision"][0]
        sound = self.model({"audio": self._sound(clip)})["audio"][0]
        return [one.numpy() for one in (frames[0], frames[-1], video, sound)]

    def _frames(self, clip: Clips) -> Tensor:
        from PIL import Image

        transforms = self.data.transforms
        prepare = transforms.Compose(
            [
                transforms.Resize(224, interpolation=transforms.InterpolationMode.BICUBIC),
                transforms.CenterCrop(224),
                transforms.ToTensor(),
                transforms.Normalize(*self._colours()),
            ]
        )
        return torch.stack([prepare(Image.fromarray(frame)) for frame in clip.frames[0]])

    def _video(self, clip: Clips) -> Tensor:
        """Five windows, the last at the end; pytorchvideo 0.1.5 would start it a fifth earlier."""
        n = clip.frames.shape[1]
        windows = []
        for i in range(5):
            start = max(n - 20, 0) * i / 4  # frames
            window = torch.from_numpy(clip.frames[0, ceil(start) : ceil(start + 20)])
            pair = self.data.pv_transforms.UniformTemporalSubsample(2)(window.permute(3, 0, 1, 2).float())
            scaled = self.data.pv_transforms.ShortSideScale(224)(pair / 255.0)
            windows.append(self.data.NormalizeVideo(*self._colours())(scaled))
        return torch.stack(self.data.SpatialCrop(224, num_crops=3)(windows))[None]

    def _sound(self, clip: Clips) -> Tensor:
        waveform = torch.from_numpy(waveforms_at(16000, clip).copy())
        normalize = self.data.transforms.Normalize(mean=-4.268, std=9.138)
        starts = [int(max(waveform.shape[1] - 32000, 0) * i / 2) for i in range(3)]
        windows = [waveform[:, start : start + 32000].clone() for start in starts]
        return torch.stack(
            [normalize(self.data.waveform2melspec(window, 16000, 128, 204)) for window in windows]
        )[None]

    @staticmethod
    def _colours() -> tuple[tuple[float, ...], tuple[float, ...]]:
        return (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@pytest.mark.parametrize("name", CLIPS)
def test_the_published_code_gives_the_known_embeddings(imagebind: ImageBindFeatures, name: str):
    clip = made_clip(**CLIPS[name])
    theirs = Published().embeddings_of(clip)
    np.testing.assert_allclose(np.stack(theirs), KNOWN[name], atol=2e-5)
    for ours, other, tolerance in zip(
        embeddings_of(imagebind, clip), theirs, (5e-4, 5e-4, 1e-5, 2e-5), strict=True
    ):
        np.testing.assert_allclose(ours, other, atol=tolerance)


def test_the_names_and_shapes_are_those_of_the_published_file():
    """imagebind_huge: 632 million weights see, 86 million hear."""
    shapes = shapes_of(HUGE)
    sizes = {
        tower: sum(prod(shapes[n]) for n in shapes if f".{tower}." in n) for tower in ("vision", "audio")
    }
    assert sizes == {"vision": 632_829_440, "audio": 86_235_649}
    for name, shape in {
        "modality_preprocessors.vision.cls_token": (1, 1, 1280),
        "modality_preprocessors.vision.rgbt_stem.proj.1.weight": (1280, 3, 2, 14, 14),
        "modality_preprocessors.vision.pos_embedding_helper.pos_embed": (1, 257, 1280),
        "modality_preprocessors.audio.rgbt_stem.proj.weight": (768, 1, 16, 16),
        "modality_preprocessors.audio.rgbt_stem.norm_layer.weight": (768,),
        "modality_preprocessors.audio.pos_embedding_helper.pos_embed": (1, 229, 768),
        "modality_trunks.vision.pre_transformer_layer.0.bias": (1280,),
        "modality_trunks.vision.blocks.31.attn.in_proj_weight": (3840, 1280),
        "modality_trunks.vision.blocks.31.mlp.fc1.weight": (5120, 1280),
        "modality_trunks.audio.blocks.11.attn.bias_k": (1, 1, 768),
        "modality_trunks.audio.blocks.11.attn.out_proj.bias": (768,),
        "modality_trunks.audio.blocks.11.norm_2.weight": (768,),
        "modality_heads.vision.0.weight": (1280,),
        "modality_heads.audio.2.weight": (1024, 768),
        "modality_postprocessors.audio.1.log_logit_scale": (),
    }.items():
        assert shapes[name] == shape, name


def test_rows_have_their_stated_form_and_do_not_depend_on_the_batch(imagebind: ImageBindFeatures):
    assert isinstance(imagebind, PairedExtractor) and not isinstance(imagebind, TextExtractor)
    one = made_clip(**CLIPS["one window"])
    other = Clips(
        frames=255 - one.frames, waveform=one.waveform[:, ::-1].copy(), fps=10, sample_rate=one.sample_rate
    )
    both = joined(one, other)
    rows, frames, sounds = imagebind(both), imagebind.frames(both), imagebind.sounds(both)
    assert rows.shape == (2, 1, 4) and frames.shape == (2, 16, 4) and sounds.shape == (2, 4)
    assert rows.dtype == frames.dtype == sounds.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=-1), 1, atol=1e-6)  # one window
    np.testing.assert_allclose(np.linalg.norm(frames, axis=-1), 1, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(sounds, axis=-1), SCALE, rtol=1e-6)
    for i, alone in enumerate((one, other)):
        np.testing.assert_array_equal(imagebind(alone)[0], rows[i])
        np.testing.assert_array_equal(imagebind.frames(alone)[0], frames[i])
        np.testing.assert_array_equal(imagebind.sounds(alone)[0], sounds[i])


def test_a_clip_of_2_s_is_one_window_and_a_longer_one_the_mean_of_several(imagebind: ImageBindFeatures):
    """Of 3.6 s, the windows of pictures start 0.4 s apart, those of sound 0.8 s."""
    clip = made_clip(frames=36, height=32, width=32, rate=16000)

    def window(start_s: float) -> Clips:
        frames, samples = round(start_s * 10), round(start_s * 16000)
        return Clips(
            frames=clip.frames[:, frames : frames + 20],
            waveform=clip.waveform[:, samples : samples + 32000],
            fps=10,
            sample_rate=16000,
        )

    videos = [imagebind(window(start)) for start in (0, 0.4, 0.8, 1.2, 1.6)]
    np.testing.assert_allclose(imagebind(clip), np.mean(videos, axis=0), atol=1e-6)
    sounds = [imagebind.sounds(window(start)) for start in (0, 0.8, 1.6)]
    np.testing.assert_allclose(imagebind.sounds(clip), np.mean(sounds, axis=0), atol=1e-5)
    assert np.linalg.norm(imagebind(clip)) < 0.9999 and np.linalg.norm(sounds[0] - sounds[2]) > 0.01


def test_fewer_frames_than_windows_are_taken_again(imagebind: ImageBindFeatures):
    """Three frames at 0.5 fps: a window is one frame, and each is first and last of its own."""
    made = made_clip(frames=3, height=32, width=32, rate=16000)
    slow = Clips(frames=made.frames, waveform=made.waveform, fps=0.5, sample_rate=16000)
    alone = [
        imagebind(Clips(frames=made.frames[:, [i]], waveform=made.waveform, fps=0.5, sample_rate=16000))
        for i in (0, 1, 1, 2, 2)
    ]
    np.testing.assert_allclose(imagebind(slow), np.mean(alone, axis=0), atol=1e-6)


def test_black_pictures_and_silence_have_embeddings(imagebind: ImageBindFeatures):
    frames = np.zeros((1, 2, 16, 16, 3), np.uint8)
    clip = Clips(frames=frames, waveform=np.zeros((1, 3200), np.float32), fps=10, sample_rate=16000)
    for embedding in embeddings_of(imagebind, clip):
        assert np.isfinite(embedding).all() and np.linalg.norm(embedding) > 0


def test_spectrograms_are_normalized_by_the_published_mean_and_deviation():
    """The embeddings hardly show the deviation: the first norm takes it out."""
    waveform = torch.from_numpy(np.random.default_rng(0).normal(size=8000).astype(np.float32))
    found = mel_windows(waveform)
    assert found.shape == (1, 1, 128, 204) and found.dtype == torch.float32
    columns = (8000 - 400) // 160 + 1
    rest = found[..., columns:]  # completed by 0 before they are normalized
    torch.testing.assert_close(rest, torch.full_like(rest, 4.268 / 9.138))
    # Logarithms of energies; some of the bins are narrower than the spectrum's lines and hold nothing.
    louder = (mel_windows(10 * waveform) - found)[..., :columns]
    assert louder.median().item() == pytest.approx(2 * log(10) / 9.138, abs=1e-4)


def test_sound_is_resampled_to_16_khz(imagebind: ImageBindFeatures):
    """Near torchaudio's, with which the published code resamples."""
    import torchaudio

    clip = made_clip(**CLIPS["longer"])
    theirs = torchaudio.functional.resample(torch.from_numpy(clip.waveform), 22050, 16000).numpy()
    at_16k = Clips(frames=clip.frames, waveform=theirs, fps=10, sample_rate=16000)
    assert similarity(imagebind.sounds(clip), imagebind.sounds(at_16k)) > 0.9999


def test_a_sound_shorter_than_a_column_is_refused(imagebind: ImageBindFeatures):
    frames = np.zeros((1, 1, 16, 16, 3), np.uint8)
    clip = Clips(frames=frames, waveform=np.zeros((1, 399), np.float32), fps=50, sample_rate=16000)
    with pytest.raises(MetricError, match="25 ms and more"):
        imagebind.sounds(clip)


def saved(state: Any, path: Path) -> Path:
    torch.save(state, path)
    return path


@pytest.mark.parametrize(
    "name", ["modality_trunks.audio.blocks.1.attn.bias_v", "modality_heads.vision.2.weight"]
)
def test_a_tensor_that_lacks_or_has_another_shape_is_named(name: str, tmp_path: Path):
    state = made_weights()
    shape = tuple(state[name].shape)
    state[name] = torch.zeros(3, 3)
    with pytest.raises(WeightsError) as caught:
        load_imagebind(saved(state, tmp_path / "other.pth"), TINY)
    assert f"does not hold ImageBind: {name} is (3, 3), not {shape}" in str(caught.value)
    del state[name]
    with pytest.raises(WeightsError) as caught:
        load_imagebind(saved(state, tmp_path / "lacking.pth"), TINY)
    assert f"{name} is missing, not {shape}" in str(caught.value)


def test_another_network_a_damaged_file_and_objects_are_refused(weights: Path, tmp_path: Path):
    with pytest.raises(WeightsError, match=r"cls_token is \(1, 1, 8\), not \(1, 1, 1280\)"):
        load_extractor("imagebind", weights)
    (tmp_path / "damaged.pth").write_bytes(weights.read_bytes()[:4000])
    with pytest.raises(WeightsError, match="cannot be read as weights"):
        load_imagebind(tmp_path / "damaged.pth", TINY)
    with pytest.raises(WeightsError, match="cannot be read as weights"):
        load_imagebind(saved(SimpleNamespace(), tmp_path / "object.pth"), TINY)
    with pytest.raises(MetricError, match=r"imagebind_huge.pth .*CC BY-NC 4.0.* from .*checksum not known"):
        load_imagebind(tmp_path / "none.pth", TINY)


def test_the_file_is_mapped_and_its_checksum_is_kept(weights: Path, monkeypatch: pytest.MonkeyPatch):
    import hashlib

    asked: list[dict[str, Any]] = []
    load = torch.load

    def watched(path: Path, **options: Any) -> Any:
        asked.append(options)
        return load(path, **options)

    monkeypatch.setattr(torch, "load", watched)
    loaded = load_imagebind(weights, TINY)
    assert asked == [{"map_location": "cpu", "weights_only": True, "mmap": True}]
    assert loaded.sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()
