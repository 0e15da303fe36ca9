from __future__ import annotations

from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from avprep.dsp.mel import mel_stack
from avprep.media.sound import Piece, Sound, cut, mono_pieces
from avprep.media.timeline import Clock
from avprep.spec import ClipSpec

SPEC = ClipSpec()
MS = Clock(Fraction(1, 1000), Fraction(0))


def frames(stamps, samples=1024, rate=48000, value=0.5, layout="mono"):
    """Audio frames with given PTS in ms."""
    channels = av.AudioLayout(layout).nb_channels
    for pts in stamps:
        frame = av.AudioFrame.from_ndarray(np.full((channels, samples), value, np.float32), "fltp", layout)
        frame.sample_rate, frame.pts = rate, pts
        yield frame


def places(stamps, settled_s=Fraction(2, 1000), **kwargs):
    return [piece.place for piece in mono_pieces(frames(stamps, **kwargs), MS, settled_s)]


def test_rounded_stamps_leave_no_holes_and_no_drift():
    stamps = [round(i * 1024 / 48) for i in range(500)]
    found = places(stamps)
    assert np.diff(found).tolist() == [1024] * 499
    assert abs(found[0]) <= 12  # a quarter of a ms: the rounding is averaged away


def test_one_misplaced_stamp_moves_nothing():
    stamps = [round(i * 1024 / 48) for i in range(100)]
    stamps[40] += 9
    assert np.diff(places(stamps)).tolist() == [1024] * 99


@pytest.mark.parametrize("gap_ms", [5, 100, 2000])
def test_a_true_gap_stays_a_gap(gap_ms):
    stamps = [round(i * 1024 / 48) + (gap_ms if i >= 50 else 0) for i in range(100)]
    steps = np.diff(places(stamps))
    assert steps[49] - 1024 == pytest.approx(gap_ms * 48, abs=30)
    assert set(np.delete(steps, 49)) == {1024}


@pytest.mark.parametrize("layout", ["mono", "stereo", "2.1", "5.1", "quad"])
def test_equal_channels_mix_to_the_same_loudness(layout):
    pieces = list(mono_pieces(frames([0], layout=layout), MS, Fraction(1, 1000)))
    assert np.allclose(pieces[0].samples, 0.5, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([8000, 11025, 22050, 32000, 44100, 48000, 96000]), st.integers(0, 3))
def test_a_tone_keeps_its_phase_through_resampling(rate, second):
    """The sample at n/16000 s is the tone at that instant, whatever the source's rate and the start."""
    start = second * 16000 + 123
    t = np.arange(rate * 6) / rate
    tone = np.sin(2 * np.pi * 440 * t).astype(np.float32)
    pieces = [Piece(rate, i, tone[i : i + 1000]) for i in range(0, len(tone), 1000)]
    sound = cut(pieces, start, SPEC)
    n = np.arange(start - SPEC.samples_before, start + SPEC.samples + SPEC.samples_after)
    expected = np.sin(2 * np.pi * 440 * n / 16000) * (n >= 0)
    middle = slice(1200, -1200)
    assert np.abs(sound.waveform - expected)[middle].max() < 2e-3
    assert sound.sounding_s == pytest.approx(1.6, abs=2e-4)


def test_clips_beyond_the_sound_are_silent_and_say_so():
    pieces = [Piece(16000, 0, np.ones(30000, np.float32))]
    first, second, third = (cut(pieces, start, SPEC) for start in (0, 25600, 60000))
    assert first.sounding_s == pytest.approx(1.6)
    assert second.sounding_s == pytest.approx((30000 - 25600) / 16000)
    assert third.sounding_s == 0 and not third.waveform.any()


def test_damaged_samples_of_any_size_leave_a_mel_stack_of_numbers():
    damaged = frames(range(0, 3000, 21), value=3e38)
    sound = cut(list(mono_pieces(damaged, MS, Fraction(2, 1000))), 0, SPEC)
    assert np.isfinite(sound.waveform).all() and np.abs(sound.waveform).max() > 1
    assert torch.isfinite(mel_stack(torch.from_numpy(sound.waveform), SPEC)).all()


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([0.9, 0.99, 1.01, 1.0884, 1.2]), st.sampled_from([8000, 44100, 48000]))
def test_sound_whose_stamps_part_steadily_from_its_count_follows_the_stamps(factor, rate):
    stamps = [round(1000 * factor * i * 1024 / rate) for i in range(100)]
    pieces = mono_pieces(frames(stamps, rate=rate), MS, Fraction(2, 1000))
    for piece, stamp in zip(pieces, stamps, strict=True):
        assert abs(1000 * piece.place / rate - stamp) < 2
        assert len(piece.samples) == pytest.approx(1024 * factor, abs=1024 * 0.002 + 1)


def test_what_sounds_before_a_change_of_rate_is_kept():
    """Half a second at each of two rates: a tone in both, at its time."""
    t = np.arange(48000) / 48000
    tone = {
        rate: np.sin(2 * np.pi * 440 * t[: rate // 2] * 48000 / rate).astype(np.float32)
        for rate in (48000, 44100)
    }
    pieces = [Piece(48000, 0, tone[48000]), Piece(44100, 44100, tone[44100])]
    sound = cut(pieces, 0, SPEC)
    assert sound.sounding_s == pytest.approx(1.0, abs=1e-3)
    clip = sound.waveform[SPEC.samples_before :]
    loud = [float(np.abs(clip[a : a + 4000]).mean()) for a in (2000, 10000, 18000)]
    assert loud[0] > 0.6 and loud[1] < 1e-3 and loud[2] > 0.6


@pytest.mark.parametrize(("right", "is_cancelled"), [(-1, True), (-0.99, True), (-0.5, False), (1, False)])
def test_channels_that_are_each_others_opposite_are_told(right, is_cancelled):
    rng = np.random.default_rng(0)

    def stereo():
        for i in range(100):
            left = rng.standard_normal(1024).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(np.stack([left, right * left]), "fltp", "stereo")
            frame.sample_rate, frame.pts = 48000, round(i * 1024 / 48)
            yield frame

    pieces = list(mono_pieces(stereo(), MS, Fraction(2, 1000)))
    assert cut(pieces, 0, SPEC).is_cancelled is is_cancelled


# --- placing ---------------------------------------------------------------------------------------------


def test_two_gaps_close_to_each_other_are_no_drift():
    stamps = [round(i * 1024 / 48) + 100 * (i >= 50) + 100 * (i >= 60) for i in range(100)]
    pieces = list(mono_pieces(frames(stamps), MS, Fraction(2, 1000)))
    assert {len(piece.samples) for piece in pieces} == {1024}
    steps = np.diff([piece.place for piece in pieces])
    assert steps[[49, 59]] - 1024 == pytest.approx([4800, 4800], abs=60)
    assert set(np.delete(steps, [49, 59])) == {1024}


@pytest.mark.parametrize(("factor", "count"), [(2, 100), (0.5, 100), (1.1, 5)])
def test_stamps_that_part_too_far_or_too_few_of_them_stretch_nothing(factor, count):
    stamps = [round(1000 * factor * i * 1024 / 48000) for i in range(count)]
    assert {len(p.samples) for p in mono_pieces(frames(stamps), MS, Fraction(2, 1000))} == {1024}


def test_a_gap_in_sound_that_drifts_stays_a_gap():
    stamps = [round(1.05 * i * 1024 / 48) + 500 * (i >= 60) for i in range(120)]
    for piece, stamp in zip(mono_pieces(frames(stamps), MS, Fraction(2, 1000)), stamps, strict=True):
        assert abs(piece.place / 48 - stamp) < 5


def test_sound_begins_where_most_of_its_first_stamps_say():
    wild = [500, *(round(i * 1024 / 48) for i in range(1, 40))]
    assert abs(places(wild)[0]) <= 48
    rounded_up = [round(i * 1024 / 48 + 0.49) for i in range(100)]
    assert abs(places(rounded_up)[0] / 48 - 0.49) < 0.3


def test_sound_of_a_rate_that_cannot_be_is_none():
    assert places([0, 20, 40], rate=10) == []


@pytest.mark.parametrize("gap_ms", [0, 100])
def test_each_rate_is_placed_by_its_own_stamps(gap_ms):
    """Two frames at 48 kHz, then 40 at 8 kHz."""
    later = [43 + gap_ms + i * 128 for i in range(40)]
    mixed = [*frames([0, 21]), *frames(later, rate=8000)]
    pieces = list(mono_pieces(iter(mixed), MS, Fraction(2, 1000)))
    assert [piece.rate for piece in pieces] == [48000] * 2 + [8000] * 40
    assert [1000 * piece.place / piece.rate for piece in pieces] == pytest.approx([0, 21, *later], abs=1.5)


# --- mixing ----------------------------------------------------------------------------------------------


def mixed(data: np.ndarray, form: str, layout: str) -> np.ndarray:
    frame = av.AudioFrame.from_ndarray(data, form, layout)
    frame.sample_rate, frame.pts = 48000, 0
    (piece,) = mono_pieces(iter([frame]), MS, Fraction(1, 1000))
    return piece.samples


@pytest.mark.parametrize("layout", ["7.1", "octagonal", "hexadecagonal"])
def test_eight_channels_and_more_are_mixed_as_fewer_are(layout):
    channels = av.AudioLayout(layout).nb_channels
    packed = av.AudioFrame.from_ndarray(np.full((1, channels * 64), 0.5, np.float32), "flt", layout)
    packed.sample_rate, packed.pts = 48000, 0
    (frame,) = av.AudioResampler("fltp", layout, 48000).resample(packed)
    (piece,) = mono_pieces(iter([frame]), MS, Fraction(1, 1000))
    assert len(piece.samples) == 64 and np.allclose(piece.samples, 0.5, atol=1e-6)


def test_low_frequency_effects_are_left_out_and_surrounds_are_3_db_less():
    loud = {}
    for channel in range(6):  # FL FR FC LFE BL BR
        data = np.zeros((6, 64), np.float32)
        data[channel] = 0.5
        loud[channel] = float(mixed(data, "fltp", "5.1")[0])
    assert loud[3] == 0 and loud[0] == loud[1] == loud[2] > 0
    assert loud[4] == loud[5] == pytest.approx(loud[0] * 0.5**0.5)
    assert np.allclose(mixed(np.full((1, 64), 0.5, np.float32), "fltp", "1 channels (LFE)"), 0.5)


@pytest.mark.parametrize("form", ["u8", "s16", "s32", "flt", "u8p", "s16p", "s32p", "fltp", "dblp"])
def test_every_sample_format_has_its_zero_its_scale_and_its_order(form):
    left = np.linspace(-1, 0.99, 64)
    scale, zero = {"u8": (128, 128), "s1": (1 << 15, 0), "s3": (1 << 31, 0)}.get(form[:2], (1, 0))
    kind = {"u8": np.uint8, "s1": np.int16, "s3": np.int32, "fl": np.float32, "db": np.float64}[form[:2]]
    channels = np.stack([left * scale + zero, np.full(64, zero)]).astype(kind)  # the right one is silent
    data = channels if form.endswith("p") else channels.T.reshape(1, -1)
    assert np.allclose(mixed(np.ascontiguousarray(data), form, "stereo"), left / 2, atol=1 / 128)


def test_only_two_channels_and_only_those_of_the_clip_can_cancel_each_other():
    tone = np.sin(np.arange(1024) / 3).astype(np.float32)

    def sound(right: float, layout: str, begin_s: int, count: int):
        channels = [tone, right * tone, *([0 * tone] * (av.AudioLayout(layout).nb_channels - 2))]
        for i in range(count):
            frame = av.AudioFrame.from_ndarray(np.stack(channels), "fltp", layout)
            frame.sample_rate, frame.pts = 48000, round(1000 * begin_s + i * 1024 / 48)
            yield frame

    three = list(mono_pieces(sound(-1, "2.1", 0, 100), MS, Fraction(2, 1000)))
    assert not cut(three, 0, SPEC).is_cancelled
    both = [
        *mono_pieces(sound(-1, "stereo", 0, 700), MS, Fraction(2, 1000)),
        *mono_pieces(sound(1, "stereo", 20, 90), MS, Fraction(2, 1000)),
    ]
    assert cut(both, 0, SPEC).is_cancelled
    assert not cut(both, 20 * 16000, SPEC).is_cancelled


def test_samples_that_are_no_numbers_leave_a_waveform_of_numbers():
    data = np.full(30000, 0.5, np.float32)
    data[1000:1004] = (np.nan, np.inf, -np.inf, 3e38)
    assert np.isfinite(cut([Piece(16000, 0, data)], 0, SPEC).waveform).all()


# --- clips one after another -----------------------------------------------------------------------------


class Source:
    """Packets of 16-bit samples at 16 kHz, each of 1600: 0.1 s; the n-th packet's samples all are n + 1."""

    def __init__(self, stamps_ms: list[int], *, origin_s: int = 0, name: str = "pcm_s16le") -> None:
        self.codec = av.CodecContext.create("pcm_s16le", "r")
        self.codec.sample_rate, self.codec.layout = 16000, "mono"
        decoder = SimpleNamespace(
            name=name,
            decode=self.codec.decode,
            flush_buffers=self.codec.flush_buffers,
        )
        self.stream = SimpleNamespace(time_base=Fraction(1, 1000), codec_context=decoder)
        self.origin_s = origin_s
        self.packets = [self._packet(i, pts) for i, pts in enumerate(stamps_ms)]

    def _packet(self, number: int, pts: int) -> av.Packet:
        packet = av.Packet(3200)
        packet.update(np.full(1600, number + 1, "<i2").tobytes())
        packet.pts = packet.dts = pts + 1000 * self.origin_s
        packet.time_base = Fraction(1, 1000)
        return packet

    def sound(self) -> Sound:
        waiting = iter(self.packets)
        demuxer = SimpleNamespace(
            is_counted=lambda packet: packet.pos is None,
            audio=lambda: next(waiting, None),
            video_clock=Clock(Fraction(1, 1000), Fraction(self.origin_s)),
        )
        return Sound(self.stream, demuxer, SPEC)


def heard(sound: Sound, start: int) -> list[int]:
    """The numbers of the packets that sound in the middle of each 0.1 s of a clip; 0: silence."""
    own = sound.clip(start).waveform[SPEC.samples_before + 800 :][: SPEC.samples : 1600]
    return np.round(own * 32768).astype(int).tolist()


@pytest.mark.parametrize("origin_s", [0, 36000])
def test_clips_one_after_another_hear_what_is_stamped_at_their_time(origin_s):
    source = Source([100 * i for i in range(1000)], origin_s=origin_s)
    sound = source.sound()
    for start_ds in (0, 3, 16, 20, 300, 901, 990):
        expected = [n + 1 if n < 1000 else 0 for n in range(start_ds, start_ds + 16)]
        assert heard(sound, 1600 * start_ds) == expected
    assert len(sound._held) < 60  # what is behind is dropped


def test_the_sound_of_the_next_part_is_decoded_by_the_same_codec():
    source = Source([100 * i for i in range(30)])
    assert heard(source.sound(), 0) == list(range(1, 17))
    assert heard(source.sound(), 3200) == list(range(3, 19))
    first = source.sound()
    assert heard(first, 1600 * 20) == [*range(21, 31)] + [0] * 6  # to the end
    assert heard(source.sound(), 0) == list(range(1, 17))


def test_a_damaged_packet_is_silence_and_nothing_moves():
    source = Source([100 * i for i in range(40)])
    damaged = av.Packet(1)
    damaged.update(b"?")
    source.packets[5] = damaged
    assert heard(source.sound(), 0) == [1, 2, 3, 4, 5, 0, *range(7, 17)]


def test_sound_that_starts_again_earlier_is_not_of_its_time_and_a_small_overlap_is():
    again = Source([*(100 * i for i in range(40)), *(100 * i for i in range(40))]).sound()
    assert heard(again, 0) == list(range(1, 17))
    assert heard(again, 1600 * 16) == list(range(17, 33))
    assert heard(again, 1600 * 30)[:4] == list(range(31, 35))
    overlap = Source([*(100 * i for i in range(20)), *(1700 + 100 * i for i in range(20))]).sound()
    assert heard(overlap, 1600 * 16) == [17, *range(21, 36)]


@pytest.mark.parametrize(("name", "settled"), [("vorbis", True), ("pcm_s16le", False)])
def test_stamps_of_vorbis_waver_while_its_samples_run_on(name, settled):
    stamps = [100 * i + (30 if i % 16 >= 8 else 0) for i in range(100)]
    source = Source(stamps, name=name)
    sound = source.sound()
    places = [piece.place for piece in sound._pieces]
    assert (set(np.diff(places)) == {1600}) is settled
