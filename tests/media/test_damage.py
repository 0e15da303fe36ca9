"""Which pictures are damaged, by hand-made decoding orders: letters and numbers as in damage.py."""

from __future__ import annotations

import pytest

from avprep.media.damage import Damage, is_reference

# (number in decoding order, PTS): I0 P1 B2 P3 B4 P5 | I6 B7 B8 P9, where B7 and B8 are shown before I6.
SHOWN = [(0, 0), (1, 2), (2, 1), (3, 4), (4, 3), (5, 5), (6, 8), (7, 6), (8, 7), (9, 9)]
KEYS = (0, 6)


def damaged_by(*bad: int, alone: tuple[int, ...] = (), keys: tuple[int, ...] = KEYS) -> list[int]:
    """The numbers of the pictures that are damaged where those of `bad` and `alone` are flagged."""
    damage = Damage()
    for number, pts in SHOWN:
        damage.wait_for(number)
        if number in bad or number in alone:
            damage.add(number, pts, is_reference=number not in alone)
        damage.came_out(number, pts, is_key=number in keys and number not in bad)
    return [number for number, pts in SHOWN if damage.reaches(number, pts)]


def test_damage_reaches_what_is_decoded_after_it_up_to_the_keyframe_and_what_is_shown_before_that():
    assert damaged_by() == []
    assert damaged_by(3) == [3, 4, 5, 7, 8]


def test_a_damaged_keyframe_heals_nothing():
    assert damaged_by(6) == [6, 7, 8, 9]
    assert damaged_by(0) == [0, 1, 2, 3, 4, 5, 7, 8]
    assert damaged_by(0, 6) == list(range(10))


def test_a_picture_that_nothing_leans_on_is_damaged_alone():
    assert damaged_by(alone=(2,)) == [2]


def test_a_damaged_picture_shown_before_a_keyframe_reaches_no_picture_after_it():
    assert damaged_by(7) == [7, 8]


def test_without_a_keyframe_everything_after_is_damaged():
    assert damaged_by(3, keys=(0,)) == list(range(3, 10))


def test_a_clip_waits_for_all_that_its_pictures_lean_on():
    damage = Damage()
    for number in (0, 1, 2):
        damage.wait_for(number)
    damage.came_out(0, 0, is_key=True)
    damage.came_out(2, 1, is_key=False)
    assert damage.waits_up_to(2) and not damage.waits_up_to(0)  # P1, on which B2 leans, is not out yet
    damage.came_out(1, 2, is_key=False)
    assert not damage.waits_up_to(2)


def test_a_packet_that_never_gives_a_picture_is_not_waited_for_for_ever():
    damage = Damage()
    damage.wait_for(0)
    for number in range(1, 200):
        damage.wait_for(number)
        damage.came_out(number, number, is_key=False)
    assert not damage.waits_up_to(150)


def test_a_picture_is_waited_for_until_it_comes_out_or_is_refused_or_forgotten():
    damage = Damage()
    for number in range(20):  # more than the 16 pictures that a codec may hold back
        damage.wait_for(number)
    assert damage.waits_up_to(0)
    damage.came_out(0, 0, is_key=True)
    damage.add(1, 1, is_reference=True)
    assert not damage.waits_up_to(1) and damage.waits_up_to(2)
    damage.forget_waiting()
    assert not damage.waits_up_to(19)


def test_a_refused_packet_without_a_stamp_reaches_no_further_than_the_keyframe():
    damage = Damage()
    damage.came_out(0, 0, is_key=True)
    damage.add(3, None, is_reference=True)
    damage.came_out(6, 8, is_key=True)
    assert damage.reaches(5, 5) and damage.reaches(7, 6)
    assert not damage.reaches(2, 2) and not damage.reaches(6, 8) and not damage.reaches(9, 9)


def test_a_keyframe_heals_nothing_that_was_decoded_before_it():
    """Whatever the stamps say: picture 5 is shown after keyframe 6 here."""
    damage = Damage()
    damage.came_out(0, 0, is_key=True)
    damage.add(3, 4, is_reference=True)
    damage.came_out(6, 8, is_key=True)
    assert damage.reaches(5, 9) and not damage.reaches(7, 9)


def annex_b(*headers: int) -> bytes:
    return b"".join(b"\0\0\0\1" + bytes([header]) + bytes(8) for header in headers)


def length_prefixed(*headers: int) -> bytes:
    return b"".join((9).to_bytes(4, "big") + bytes([header]) + b"\x55" * 8 for header in headers)


@pytest.mark.parametrize("packed", [annex_b, length_prefixed])
@pytest.mark.parametrize(
    ("codec", "headers", "is_b", "is_leaned_on"),
    [
        ("h264", (0x09, 0x65), None, True),        # IDR
        ("h264", (0x09, 0x41), None, True),        # P, nal_ref_idc 2
        ("h264", (0x09, 0x01), None, False),       # nal_ref_idc 0
        ("h264", (0x09, 0x01, 0x41), None, True),
        ("h264", (0x01,), False, True),            # it came out as P: the header may be what is damaged
        ("h264", (0xEA,), None, True),             # no slice in sight
        ("h264", (0x81,), None, True),             # a bit is set that never is
        ("hevc", (0x02,), None, True),             # TRAIL_R
        ("hevc", (0x00,), None, False),            # TRAIL_N
        ("hevc", (0x26,), None, True),             # IDR_W_RADL
        ("hevc", (0x28,), None, True),             # IDR_N_LP
        ("hevc", (0xFE,), None, True),             # no slice in sight
        ("mpeg2video", (), True, False),
        ("mpeg2video", (), False, True),
        ("mpeg2video", (), None, True),
        ("vp9", (), True, True),
    ],
)
def test_what_other_pictures_may_lean_on(packed, codec, headers, is_b, is_leaned_on):
    assert is_reference(memoryview(packed(*headers) or b"\0"), codec, is_b=is_b) is is_leaned_on
