"""Numbers with intervals from rows: known answers, and what resampling must not change."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from avmodel.evaluate.distances import (
    Selection,
    Times,
    av_align_of,
    clip_mean,
    distance_names,
    feature_distances,
    pair_similarities,
    pair_similarity_names,
    resamples,
    text_similarity,
)
from avmodel.metrics import MetricError
from avmodel.metrics.frechet import frechet_distance
from avmodel.metrics.mmd import cubic_kernel, kernel_audio_distance, kernel_video_distance, resampled_mmd2
from avmodel.metrics.moments import Moments


@dataclass
class Named:
    """As much of an extractor as the names and notes need."""

    name: str
    side: str
    sha256: str = "ab" * 32


def drawn(n: int, *, mean: float = 0.0, seed: int = 0) -> np.ndarray:
    return mean + np.random.default_rng(seed).standard_normal((n, 6))


def selection(x: np.ndarray, y: np.ndarray, name: str, *, bootstrap: int = 50, seed: int = 0) -> Selection:
    times = resamples(len(x), len(y), bootstrap, seed)
    return Selection(generated={f"features/{name}": x}, reference={f"features/{name}": y}, times=times)


def test_the_values_are_those_of_the_metrics():
    x, y = drawn(60, mean=0.5), drawn(50, seed=1)
    video = feature_distances([selection(x, y, "i3d")], Named("i3d", "video"), "")
    assert [one.metric for one in video] == ["FVD", "KVD"]
    assert video[0].value == pytest.approx(frechet_distance(Moments.of(x), Moments.of(y)))
    assert video[1].value == pytest.approx(kernel_video_distance(x, y))
    sound = feature_distances([selection(x, y, "yamnet")], Named("yamnet", "audio"), "r")
    assert [one.metric for one in sound] == ["rFAD-yamnet", "rKAD-yamnet"]
    assert sound[1].value == pytest.approx(kernel_audio_distance(x, y))


def test_audioclip_s_distance_is_scaled_as_published():
    x, y = drawn(40, mean=0.5), drawn(40, seed=1)
    found = feature_distances([selection(x, y, "audioclip")], Named("audioclip", "audio"), "")[0]
    assert found.metric == "FAD-audioclip" and found.note == "x 10,000"
    assert found.value == pytest.approx(1e4 * frechet_distance(Moments.of(x), Moments.of(y)))


def test_a_name_never_drops_its_features():
    assert distance_names("squeezenet", "video") == ("FD-squeezenet", "KD-squeezenet")
    assert distance_names("vggish", "audio") == ("FAD-vggish", "KAD-vggish")
    assert distance_names("i3d", "video") == ("FVD", "KVD")


def test_a_resample_of_the_kernel_distance_is_the_plain_sum_over_different_clips():
    x, y = drawn(7, mean=0.4), drawn(5, seed=1)
    times_x, times_y = np.array([[2, 0, 1, 1, 3, 0, 0.0]]), np.array([[1, 1, 2, 0, 1.0]])
    rows_x, rows_y = (np.repeat(np.arange(t.shape[1]), t[0].astype(int)) for t in (times_x, times_y))
    within = []
    for side, rows in ((x, rows_x), (y, rows_y)):
        kernel = cubic_kernel(side, side)
        within.append(np.mean([kernel[i, j] for i in rows for j in rows if i != j]))
    across = np.mean([cubic_kernel(x, y)[i, j] for i in rows_x for j in rows_y])
    found = resampled_mmd2(x, y, cubic_kernel, times_x, times_y)
    assert found[0] == pytest.approx(sum(within) - 2 * across)


def test_the_interval_holds_the_true_distance_of_shifted_gaussians():
    """|shift|^2 = 6 * 0.5^2 = 1.5, and the bias at n = 2000, d = 6 is below 0.02."""
    x, y = drawn(2000, mean=0.5), drawn(2000, seed=1)
    found = feature_distances([selection(x, y, "i3d", bootstrap=100)], Named("i3d", "video"), "")[0]
    assert found.low < 1.5 < found.high
    assert 0.05 < found.high - found.low < 0.6


def test_without_resamples_there_is_no_interval():
    found = feature_distances(
        [selection(drawn(9), drawn(9, seed=1), "i3d", bootstrap=0)], Named("i3d", "video"), ""
    )
    assert all(one.low is None and one.high is None for one in found)


def test_seeds_are_averaged_and_kept():
    pairs = [(drawn(30, mean=0.3, seed=s), drawn(30, seed=10 + s)) for s in range(3)]
    found = feature_distances([selection(*pair, "i3d") for pair in pairs], Named("i3d", "video"), "")[0]
    assert found.per_seed == tuple(
        pytest.approx(frechet_distance(Moments.of(x), Moments.of(y))) for x, y in pairs
    )
    assert found.value == pytest.approx(np.mean(found.per_seed))


def events(*, shift: int) -> dict[str, np.ndarray]:
    """Ten clips, each with one peak and an onset `shift` frames later, at 10 fps."""
    onsets, peaks = np.full((10, 4), np.nan), np.zeros((10, 16), bool)
    for clip in range(10):
        peaks[clip, clip + 1] = True
        onsets[clip, 0] = (clip + 1 + shift) / 10 + 0.01
    return {"onsets": onsets, "peaks": peaks}


@pytest.mark.parametrize("shift, narrow, wide", [(0, 1, 1), (2, 0, 1), (5, 0, 0)])
def test_av_align_is_1_where_sound_meets_movement(shift: int, narrow: float, wide: float):
    rows = events(shift=shift)
    one = Selection(generated=rows, reference=rows, times=resamples(10, 10, 20, 0))
    found = {m.metric: m for m in av_align_of([one], "generated", 10)}
    assert found["AV-Align, within 1 frame"].value == narrow
    assert found["AV-Align, within 3 frames"].value == wide
    assert "shuffled baseline 0." in found["AV-Align, within 1 frame"].note


def test_clips_without_events_are_skipped_and_counted():
    rows = events(shift=0)
    rows["onsets"][:4] = np.nan
    rows["peaks"][:4] = False
    one = Selection(generated=rows, reference=rows, times=resamples(10, 10, 20, 0))
    found = av_align_of([one], "reference", 10)[0]
    assert found.value == 1 and found.clips == "6" and "4 clips without onset" in found.note


def test_a_clip_mean_is_the_mean_and_its_interval_shrinks_with_more_clips():
    widths = []
    for n in (20, 2000):
        values = np.random.default_rng(0).normal(5, 1, n)
        rows = {"pairs/psnr_v": values}
        one = Selection(generated=rows, reference=rows, times=resamples(n, n, 200, 0))
        found = clip_mean("PSNR-V", [one], "pairs/psnr_v", better="higher", note="dB")
        assert found.value == pytest.approx(values.mean())
        widths.append(found.high - found.low)
    assert widths[0] / widths[1] == pytest.approx(10, rel=0.35)


def test_resamples_begin_with_the_clips_themselves_and_have_as_many():
    times: Times = resamples(12, 7, 30, 3)
    for side, n in ((times.generated, 12), (times.reference, 7)):
        assert side.shape == (31, n) and (side[0] == 1).all() and (side.sum(1) == n).all()


def test_sounds_are_compared_with_their_own_texts_where_they_have_one():
    """Similarities of 1 and 0; with the text of the other clip 0 and 1."""
    sounds = np.array([[1.0, 0.0], [3.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    texts = np.array([[2.0, 0.0], [0.0, 1.0], [np.nan, np.nan], [np.nan, np.nan]], np.float32)
    rows = {"features/clap": sounds, "texts/clap": texts}
    one = Selection(generated=rows, reference=rows, times=resamples(4, 4, 20, 0))
    (found,) = text_similarity([one], Named("clap", "audio"), "generated")
    assert found.metric == "clap_text_audio" and found.value == pytest.approx(0.5)
    assert found.clips == "2" and "2 clips without text" in found.note
    assert "shuffled baseline 0.500" in found.note and found.features == "clap abababababab"
    rows["texts/clap"] = np.full((4, 2), np.nan, np.float32)
    with pytest.raises(MetricError, match="no reference clip has a caption or a label"):
        text_similarity([one], Named("clap", "audio"), "reference")


def turned(degrees: float) -> list[float]:
    return [np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))]


def pairs_of(name: str, sounds: list[list[float]]) -> Selection:
    """Two clips of two frames: 0 and 60 degrees, and 90 and 90; their videos are 0 and 90."""
    rows = {
        f"features/{name}": np.array([turned(0), turned(90)], np.float32),
        f"frames/{name}": np.array([[turned(0), turned(60)], [turned(90), turned(90)]], np.float32),
        f"sounds/{name}": 20 * np.array(sounds, np.float32),
    }
    return Selection(generated=rows, reference=rows, times=resamples(2, 2, 50, 0))


def test_imagebind_s_similarities_and_their_baselines():
    """Sounds at 0 and 60 degrees, of any length. Two of five frames would be the lowest; of two, one is."""
    one = pairs_of("imagebind", [turned(0), turned(60)])
    found = {m.metric: m for m in pair_similarities([one], Named("imagebind", "video"), "generated")}
    assert tuple(found) == pair_similarity_names("imagebind") == ("IB-AV", "AVHScore", "JavisScore")
    high = np.cos(np.deg2rad(30))
    expected = {
        "IB-AV": ((1 + high) / 2, (0.5 + 0) / 2),
        "AVHScore": ((0.75 + high) / 2, ((0.5 + 1) / 2 + 0) / 2),
        "JavisScore": ((0.5 + high) / 2, (0.5 + 0) / 2),
    }
    for name, (value, chance) in expected.items():
        assert found[name].value == pytest.approx(value)
        assert f"shuffled baseline {chance:.3f}" in found[name].note
        assert found[name].clips == "2" and found[name].side == "generated"
        assert found[name].features == "imagebind abababababab" and found[name].better == "higher"
        assert found[name].low < value < found[name].high


def test_another_network_s_similarity_is_the_mean_over_frames():
    one = pairs_of("audioclip", [turned(0), turned(60)])
    (found,) = pair_similarities([one], Named("audioclip", "audio"), "reference")
    assert found.metric == "cs_audioclip" and found.side == "reference"
    assert found.value == pytest.approx((0.75 + np.cos(np.deg2rad(30))) / 2)
    assert "shuffled baseline 0.375" in found.note


def test_seeds_of_pairs_are_averaged():
    near, far = pairs_of("pair", [turned(0), turned(90)]), pairs_of("pair", [turned(90), turned(0)])
    (found,) = pair_similarities([near, far], Named("pair", "video"), "generated")
    sine = np.sin(np.deg2rad(60))
    assert found.per_seed == (pytest.approx((0.75 + 1) / 2), pytest.approx((sine / 2 + 0) / 2))
    assert found.value == pytest.approx(np.mean(found.per_seed))
    baseline = ((sine / 2 + 0) / 2 + (0.75 + 1) / 2) / 2  # each one's pairs are the other's chance
    assert f"shuffled baseline {baseline:.3f}" in found.note


@pytest.mark.parametrize("column", ["features", "frames", "sounds"])
@pytest.mark.parametrize("value", [0, np.nan])
def test_pairs_without_a_direction_are_refused(column: str, value: float):
    one = pairs_of("imagebind", [turned(0), turned(60)])
    one.generated[f"{column}/imagebind"][-1] = value
    with pytest.raises(MetricError, match="not finite, or 0 in every value"):
        pair_similarities([one], Named("imagebind", "video"), "generated")
