"""Which pictures are damaged, by hand-made decoding orders: letters and numbers as in damage.py."""

from __future__ import annotations

import pytest

from avprep.media.damage import Damage, is_reference, nal_length_size

# (number in decoding order, PTS): I0 P1 B2 P3 B4 P5 | I6 B7 B8 P9, where B7 and B8 are shown before I6.
SHOWN = [(0, 0), (1, 2), (2, 1), (3, 4), (4, 3), (5, 5), (6, 8), (7, 6), (8, 7), (9, 9)]
KEYS = (0, 6)
PACKET = memoryview(b"\0")


def damaged_by(*bad: int, alone: tuple[int, ...] = (), keys: tuple[int, ...] = KEYS) -> list[int]:
    """The numbers of the pictures that are damaged where those of `bad` and `alone` are flagged."""
    damage = Damage("mpeg2video", 0)  # whose B pictures are never leaned on
    for number, pts in SHOWN:
        damage.wait_for(number, pts, PACKET)
        if number in bad or number in alone:
            damage.add(number, pts, PACKET, is_b=number in alone)
        is_key = number in keys and number not in bad
        damage.came_out(number, pts, is_key=is_key, is_field=False)
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
    damage = Damage("h264", 0)
    for number in (0, 1, 2):
        damage.wait_for(number, None, PACKET)
    damage.came_out(0, 0, is_key=True, is_field=False)
    damage.came_out(2, 1, is_key=False, is_field=False)
    assert damage.waits_up_to(2) and not damage.waits_up_to(0)  # P1, on which B2 leans, is not out yet
    damage.came_out(1, 2, is_key=False, is_field=False)
    assert not damage.waits_up_to(2)


@pytest.mark.parametrize(
    ("codec", "is_field", "is_damage"), [("h264", False, True), ("h264", True, False), ("vp8", False, False)]
)
def test_a_packet_that_gives_no_picture_is_damaged_where_each_should_give_one(codec, is_field, is_damage):
    damage = Damage(codec, 0)
    for number in range(200):
        damage.wait_for(number, number, PACKET)
        if number != 100:
            damage.came_out(number, number, is_key=number == 0, is_field=is_field)
    assert not damage.waits_up_to(150)
    assert damage.is_lost(100) is is_damage
    assert [damage.reaches(number, number) for number in (99, 101, 199)] == [False, is_damage, is_damage]


def test_what_is_in_the_decoder_at_its_end_is_lost():
    damage = Damage("hevc", 0)
    damage.wait_for(0, 0, PACKET)
    damage.end()
    assert damage.is_lost(0) and not damage.waits_up_to(0)


def test_old_damage_and_old_keyframes_are_forgotten():
    damage = Damage("mjpeg", 0)
    for number in range(10_000):
        damage.add(number, number, PACKET, is_b=None)
        damage.came_out(number, number, is_key=True, is_field=False)
    assert len(damage._bad) < 5000 and len(damage._keys) < 5000
    assert damage.reaches(9999, 9999)


def test_a_picture_is_waited_for_until_it_comes_out_or_is_refused_or_forgotten():
    damage = Damage("vp8", 0)
    for number in range(20):  # more than the 16 pictures that a codec may hold back
        damage.wait_for(number, None, PACKET)
    assert damage.waits_up_to(0)
    damage.came_out(0, 0, is_key=True, is_field=False)
    damage.refuse(1, 1, PACKET)
    assert not damage.waits_up_to(1) and damage.waits_up_to(2)
    damage.forget_waiting()
    assert not damage.waits_up_to(19)


def test_a_refused_packet_without_a_stamp_reaches_no_further_than_the_keyframe():
    damage = Damage("vp8", 0)
    damage.came_out(0, 0, is_key=True, is_field=False)
    damage.refuse(3, None, PACKET)
    damage.came_out(6, 8, is_key=True, is_field=False)
    assert damage.reaches(5, 5) and damage.reaches(7, 6)
    assert not damage.reaches(2, 2) and not damage.reaches(6, 8) and not damage.reaches(9, 9)


def test_a_keyframe_heals_nothing_that_was_decoded_before_it():
    """Whatever the stamps say: picture 5 is shown after keyframe 6 here."""
    damage = Damage("vp8", 0)
    damage.came_out(0, 0, is_key=True, is_field=False)
    damage.add(3, 4, PACKET, is_b=None)
    damage.came_out(6, 8, is_key=True, is_field=False)
    assert damage.reaches(5, 9) and not damage.reaches(7, 9)


def annex_b(*headers: int) -> bytes:
    return b"".join(b"\0\0\0\1" + bytes([header]) + bytes(8) for header in headers)


def length_prefixed(*headers: int) -> bytes:
    return b"".join((9).to_bytes(4, "big") + bytes([header]) + b"\x55" * 8 for header in headers)


@pytest.mark.parametrize(("packed", "length_size"), [(annex_b, 0), (length_prefixed, 4)])
@pytest.mark.parametrize(
    ("codec", "headers", "is_b", "is_leaned_on"),
    [
        ("h264", (0x09, 0x65), None, True),  # IDR
        ("h264", (0x09, 0x41), None, True),  # P, nal_ref_idc 2
        ("h264", (0x09, 0x01), None, False),  # nal_ref_idc 0
        ("h264", (0x09, 0x01, 0x41), None, True),
        ("h264", (0x01,), False, True),  # it came out as P: the header may be what is damaged
        ("h264", (0xEA,), None, True),  # no slice in sight
        ("h264", (0x81,), None, True),  # a bit is set that never is
        ("hevc", (0x02,), None, True),  # TRAIL_R
        ("hevc", (0x00,), None, False),  # TRAIL_N
        ("hevc", (0x26,), None, True),  # IDR_W_RADL
        ("hevc", (0x28,), None, True),  # IDR_N_LP
        ("hevc", (0xFE,), None, True),  # no slice in sight
        ("mpeg2video", (), True, False),
        ("mpeg2video", (), False, True),
        ("mpeg2video", (), None, True),
        ("vp9", (), True, True),
    ],
)
def test_what_other_pictures_may_lean_on(packed, length_size, codec, headers, is_b, is_leaned_on):
    assert is_reference(memoryview(packed(*headers) or b"\0"), codec, length_size, is_b=is_b) is is_leaned_on


def test_a_length_that_looks_like_a_start_code_is_a_length():
    """Units of 256 to 511 bytes begin 00 00 01 xx."""
    unit = bytes([0x01]) + bytes(389)
    packet = memoryview(len(unit).to_bytes(4, "big") + unit)
    assert bytes(packet[:3]) == b"\0\0\1"
    assert not is_reference(packet, "h264", 4, is_b=None)


@pytest.mark.parametrize(
    ("codec", "extradata", "size"),
    [
        ("h264", bytes([1, 100, 0, 31, 0xFF, 0xE1]), 4),
        ("h264", bytes([1, 100, 0, 31, 0xFD, 0xE1]), 2),
        ("h264", b"\0\0\0\1\x67\x64", 0),
        ("h264", None, 0),
        ("h264", b"\1", 0),
        ("hevc", bytes([1, *range(20), 0x0F, 3]), 4),
        ("vp9", bytes([1] * 30), 0),
    ],
)
def test_how_units_are_told_apart_stands_in_the_streams_extradata(codec, extradata, size):
    assert nal_length_size(codec, extradata) == size
