"""YAMNet against the published TFLite file: its recorded scores, and the file itself where a runtime is."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from avprep import read_clips
from avprep.dsp.yamnet import Yamnet, load_yamnet, read_class_names
from avprep.errors import ArgumentError
from tests.conftest import shared_file

WEIGHTS = "yamnet_int8.npz"
TFLITE = "yamnet_classification_tflite_1.tflite"
SECONDS = np.arange(15600) / 16000
WAVEFORMS = {
    "chirp": 0.5 * np.sin(2 * np.pi * (200 * SECONDS + 1500 * SECONDS**2)),
    "beeps": 0.4 * np.sin(2 * np.pi * 880 * SECONDS) * (np.sin(2 * np.pi * 3 * SECONDS) > 0),
    "silence": 0 * SECONDS,
}
# What the TFLite file gives for these (ai-edge-litert 2.3.0, reference kernels): class -> score.
RECORDED = {
    "chirp": {153: 0.1992, 498: 0.1484, 147: 0.1484, 495: 0.0820, 133: 0.0820, 488: 0.0586},
    "beeps": {383: 0.9570, 387: 0.9414, 382: 0.8008, 388: 0.5859, 384: 0.1484, 386: 0.1094},
    "silence": {494: 0.8008, 498: 0.0078, 488: 0.0039, 132: 0.0039, 0: 0.0039},
}


@pytest.fixture(scope="module")
def yamnet() -> Yamnet:
    return load_yamnet(shared_file("weights", WEIGHTS))


def noise(samples: int, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", WAVEFORMS)
def test_scores_are_those_of_the_published_file(yamnet: Yamnet, name: str):
    scores = yamnet(torch.from_numpy(WAVEFORMS[name]))[0][0]
    for index, recorded in RECORDED[name].items():
        assert scores[index].item() == pytest.approx(recorded, abs=0.02)


def _rounded(yamnet: Yamnet) -> Iterator[torch.utils.hooks.RemovableHandle]:
    """Round activations to int8 as the TFLite file does: all span [0, 6], layer 23's a little less."""
    for i, layer in enumerate(yamnet.layers):
        scale = 0.020902719 if i == 22 else 6 / 255

        def to_int8(_: nn.Module, __: object, x: Tensor, scale: float = scale) -> Tensor:
            return (x / scale).round().clamp(0, 255) * scale

        yield layer.register_forward_hook(to_int8)


def test_with_its_rounding_it_is_the_tflite_file():
    """With activations rounded as the file rounds them, embeddings agree to a few steps of the file's."""
    litert = pytest.importorskip("ai_edge_litert.interpreter", reason="needs ai-edge-litert")
    file = litert.Interpreter(
        str(shared_file("weights", TFLITE)), experimental_preserve_all_tensors=True, num_threads=1
    )
    file.allocate_tensors()
    yamnet = load_yamnet(shared_file("weights", WEIGHTS))
    hooks = list(_rounded(yamnet))
    assert len(hooks) == 27
    for waveform in (*WAVEFORMS.values(), noise(15600).numpy()):
        file.set_tensor(0, waveform.astype(np.float32))
        file.invoke()
        patches = yamnet.patches(torch.from_numpy(waveform))
        np.testing.assert_allclose(patches[0], file.get_tensor(27)[0], atol=0.02)
        # The file rounds its input to int8 as well.
        scale, zero = 0.048020608723163605, 16
        patches = ((patches / scale).round().clamp(-128 - zero, 127 - zero)) * scale
        expected = (file.get_tensor(115).ravel().astype(float) + 128) * 0.022328350692987442
        found = yamnet.embed(patches)[0].numpy()
        assert np.abs(found - expected).max() < 0.1
        assert np.abs(found - expected).mean() < 0.002  # a step of the file is 0.022
        assert np.corrcoef(found, expected)[0, 1] > 0.9995


@pytest.mark.parametrize(
    "media, expected",
    [
        ("water_mono.mp4", {"Stream", "Water"}),
        ("chaplin.mp4", {"Music", "Piano"}),
        ("friday_speech.mp4", {"Speech"}),
        ("butterfly.mp4", {"Animal", "Bird"}),
        ("silent_flower.mp4", {"Silence"}),
    ],
)
def test_real_sounds_are_named(yamnet: Yamnet, media: str, expected: set[str]):
    names = read_class_names(shared_file("weights", "yamnet_class_map.csv"))
    clips = list(read_clips(shared_file("media", media), clips=2))
    scores = torch.cat([yamnet(torch.as_tensor(clip.waveform))[0] for clip in clips]).mean(dim=0)
    assert expected <= {names[i] for i in scores.argsort(descending=True)[:4]}


@pytest.mark.parametrize(
    "samples, patches", [(1, 1), (15600, 1), (15601, 2), (23280, 2), (23281, 3), (25600, 3)]
)
def test_patches_cover_the_waveform(samples: int, patches: int):
    scores, embeddings = Yamnet()(noise(samples))
    assert scores.shape == (patches, 521) and embeddings.shape == (patches, 1024)


def test_a_batch_gives_what_each_gives_alone(yamnet: Yamnet):
    batch = torch.stack([noise(25600, seed) for seed in range(3)])
    scores, embeddings = yamnet(batch)
    for i, waveform in enumerate(batch):
        torch.testing.assert_close(scores[i], yamnet(waveform)[0])
        torch.testing.assert_close(embeddings[i], yamnet(waveform)[1], atol=1e-4, rtol=1e-4)


def test_patch_k_is_the_waveform_from_0_48_k_seconds(yamnet: Yamnet):
    waveform = noise(25600)
    torch.testing.assert_close(yamnet(waveform)[0][1], yamnet(waveform[7680 : 7680 + 15600])[0][0])


@pytest.mark.parametrize("waveform", [torch.zeros(0), torch.zeros(800, dtype=torch.int16), torch.tensor(0.5)])
def test_waveforms_of_another_form_are_refused(waveform: Tensor):
    with pytest.raises(ArgumentError, match="waveform"):
        Yamnet()(waveform)


def _npz(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def _changed(name: str, change: object) -> bytes:
    with np.load(shared_file("weights", WEIGHTS)) as file:
        arrays = {key: file[key] for key in file.files}
    if change is None:
        del arrays[name]
    else:
        arrays[name] = change(arrays[name])
    return _npz(**arrays)


@pytest.mark.parametrize(
    "name, change, message",
    [
        ("layer9.conv.q", None, "layer9.conv.q"),
        ("layer9.conv.q", lambda a: a[:3], "layer|shape|size"),
        ("layer9.conv.q", lambda a: a.astype(np.float64), "float64"),
        ("fc.scale", lambda a: a.astype(object), "npz"),
        ("frontend.mel", lambda a: a[:, :9], "mel"),
    ],
)
def test_files_with_other_arrays_are_refused(tmp_path: Path, name: str, change: object, message: str):
    path = tmp_path / "weights.npz"
    path.write_bytes(_changed(name, change))
    with pytest.raises(ArgumentError, match=f"weights: .*({message})"):
        load_yamnet(path)


def test_a_file_that_unpacks_to_too_much_is_refused(tmp_path: Path):
    path = tmp_path / "bomb.npz"
    path.write_bytes(_npz(bomb=np.zeros(20 << 20, np.int8)))
    assert path.stat().st_size < 100_000
    with pytest.raises(ArgumentError, match="more than"):
        load_yamnet(path)


def test_no_file_and_no_archive_are_named(tmp_path: Path):
    with pytest.raises(ArgumentError, match="no file"):
        load_yamnet(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("not an archive")
    with pytest.raises(ArgumentError, match=r"text\.npz"):
        load_yamnet(tmp_path / "text.npz")
    with zipfile.ZipFile(tmp_path / "cut.npz", "w") as file:
        file.writestr("fc.q.npy", b"\x93NUMPY")
    with pytest.raises(ArgumentError, match=r"cut\.npz"):
        load_yamnet(tmp_path / "cut.npz")


def test_a_class_map_out_of_order_is_refused(tmp_path: Path):
    path = tmp_path / "map.csv"
    path.write_text("index,mid,display_name\n1,/m/09x0r,Speech\n")
    with pytest.raises(ArgumentError, match="521 classes"):
        read_class_names(path)
    with pytest.raises(ArgumentError, match="class map"):
        read_class_names(tmp_path / "none.csv")
