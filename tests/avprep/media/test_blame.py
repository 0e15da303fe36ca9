"""Whose fault an error is: what FFmpeg or PyAV refuses is the file's, any other error of code is avprep's."""

from __future__ import annotations

import struct
from fractions import Fraction

import av
import numpy as np
import pytest

import avprep.media.probe
from avprep.errors import ArgumentError
from avprep.media.blame import blamed
from avprep.media.pictures import Doubt
from avprep.media.probe import probe
from avprep.media.timeline import Clock
from avprep.reasons import MediaError, Reason
from tests.avprep.media.flash_click import write_flash_click


def error_of(action) -> MediaError:
    with pytest.raises(MediaError) as caught, blamed():
        action()
    return caught.value


def decode_garbage():
    av.CodecContext.create("h264", "r").decode(av.Packet(b"\0\0\0\1\x65" + bytes(99)))


@pytest.mark.parametrize(
    "action",
    [
        decode_garbage,
        lambda: av.open("/nowhere"),
        lambda: av.AudioLayout("999 channels of 3"),  # a ValueError of PyAV's own
        lambda: setattr(av.Packet(3), "pts", 2**70),  # an OverflowError of PyAV's own
        lambda: np.ones(1 << 50),  # MemoryError
    ],
)
def test_what_ffmpeg_or_pyav_refuses_is_damage_of_the_file(action):
    assert error_of(action).reason is Reason.CORRUPT


@pytest.mark.parametrize(
    "action",
    [
        lambda: None.pts,  # type: ignore[attr-defined]
        lambda: Fraction(1, 0),
        lambda: {}["key"],
        lambda: int("x"),
        lambda: struct.unpack("=5i", b""),
        lambda: np.zeros(3).reshape(2, 2),
        lambda: undefined_name,  # noqa: F821
        lambda: av.Packet(3).decode(3),  # PyAV is called as it cannot be
        lambda: setattr(av.Packet(3), "pts", "x"),
        lambda: av.filter.Graph().add("nothing"),
        lambda: av.filter.Graph().add("scale", "bogus=3"),
    ],
)
def test_any_other_error_of_code_is_a_fault_of_avprep(action):
    assert error_of(action).reason is Reason.UNFORESEEN


def test_a_fault_names_its_type_and_the_innermost_place_in_avprep():
    error = error_of(lambda: Clock(Fraction(1, 25), None).seconds(1))
    assert error.reason is Reason.UNFORESEEN
    assert error.detail.startswith("TypeError in avprep.media.timeline, seconds, line ")
    assert "unsupported operand" in error.detail


@pytest.mark.parametrize(
    "error",
    [
        MediaError(Reason.TIMEOUT, "slow"),
        ArgumentError("size must be even"),  # a ValueError too
        Doubt("pictures in another order"),
        OSError("the disk is gone"),
    ],
)
def test_errors_of_avprep_and_of_the_machine_pass(error):
    with pytest.raises(type(error)) as caught, blamed():
        raise error
    assert caught.value is error


def test_a_fault_while_a_whole_file_is_probed_does_not_call_it_damaged(tmp_path, monkeypatch):
    path = write_flash_click(tmp_path / "whole.mp4", seconds=3.4).path
    monkeypatch.setattr(avprep.media.probe, "_parts", lambda *_: None)
    with pytest.raises(MediaError) as caught:
        probe(path)
    assert caught.value.reason is Reason.UNFORESEEN
    assert "TypeError in avprep.media.probe, probe" in caught.value.detail


def test_an_option_that_ffmpeg_does_not_have_does_not_call_every_file_no_media(tmp_path, monkeypatch):
    path = write_flash_click(tmp_path / "whole.mp4", seconds=3.4).path

    def refuse(*_, **__):
        raise av.OptionNotFoundError(1, "Option not found")

    monkeypatch.setattr(av, "open", refuse)
    with pytest.raises(MediaError) as caught:
        probe(path)
    assert caught.value.reason is Reason.UNFORESEEN
