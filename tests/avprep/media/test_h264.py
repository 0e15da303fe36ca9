"""H.264 headers written by hand, field by field, and what the count of their pictures says.

The sequences are of the baseline profile with 4 bits of frame_num, unless the test says otherwise.
"""

from __future__ import annotations

import pytest

from tests.avprep.media.test_missing import gaps


def written(*codes: tuple[int, int | None]) -> bytes:
    """(value, bits), or (value, None) for Exp-Golomb; then the stop bit."""
    text = ""
    for value, bits in codes:
        if bits is None:
            code = f"{value + 1:b}"
            text += "0" * (len(code) - 1) + code
        else:
            text += f"{value:0{bits}b}"
    text += "1"
    text += "0" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big")


def signed(value: int) -> tuple[int, None]:
    return (2 * value - 1 if value > 0 else -2 * value), None


def unit(header: int, *codes: tuple[int, int | None]) -> bytes:
    """A NAL unit behind its start code, escaped as an encoder escapes it."""
    escaped = bytearray()
    for byte in written(*codes):
        if escaped[-2:] == b"\0\0" and byte <= 3:
            escaped.append(3)
        escaped.append(byte)
    return b"\0\0\1" + bytes([header]) + bytes(escaped)


def sps(
    *,
    number: int = 0,
    bits: int = 4,
    allows_gaps: bool = False,
    high: list[tuple[int, int | None]] | None = None,
) -> bytes:
    """With the picture parameter set that goes with it; `high`: the fields of high profiles."""
    profile = [(100 if high else 66, 8), (0, 16), (number, None), *(high or [])]
    counts = [(bits - 4, None), (2, None), (1, None), (int(allows_gaps), 1)]
    zeros = [(0, None)] * 3
    return unit(0x67, *profile, *counts, (3, None), (3, None), (1, 1)) + unit(
        0x68, (0, None), (number, None), (0, 2), *zeros, (0, 3), *zeros, (0, 3)
    )


def part(
    frame_num: int, *, bits: int = 4, slice_type: int = 5, is_reference: bool = True, resets: bool = False
) -> bytes:
    """A picture that is no IDR picture; `resets`: by memory_management_control_operation 5."""
    header = 0x41 if is_reference else 0x01
    marking = [(1, 1), (1, None), (3, None), (5, None), (0, None)] if resets else [(0, 1)]
    return unit(header, (0, None), (slice_type, None), (0, None), (frame_num, bits), *marking, (5, 8))


def idr(*, bits: int = 4) -> bytes:
    return unit(0x65, (0, None), (7, None), (0, None), (0, bits), (0, None), (0, 2))


def gaps_of(header: bytes, slices: list[bytes]) -> list[int]:
    packets = dict(enumerate([header + slices[0], *slices[1:]]))
    return gaps("h264", packets, b"")


def test_an_intra_picture_may_begin_the_count_anew():
    counted = [idr(), *(part(n) for n in (1, 2, 3))]
    assert gaps_of(sps(), [*counted, part(4, slice_type=7, resets=True), part(1), part(2)]) == []
    assert gaps_of(sps(), [*counted, part(4, slice_type=7, resets=True), part(2), part(3)]) == [5]
    assert gaps_of(sps(), [*counted, part(4, slice_type=7), part(1), part(2)]) == [5]


def test_the_count_wraps():
    assert gaps_of(sps(), [idr(), *(part(n % 16) for n in range(1, 40))]) == []
    assert gaps_of(sps(), [idr(), *(part(n % 16) for n in range(1, 16)), part(1)]) == [16]


def test_pictures_that_are_left_out_on_purpose_are_no_gap():
    """Temporal layers that a server drops: gaps_in_frame_num_value_allowed_flag."""
    assert gaps_of(sps(), [idr(), part(1), part(3)]) == [2]
    assert gaps_of(sps(allows_gaps=True), [idr(), part(1), part(3)]) == []


def test_pictures_on_which_none_depends_do_not_count():
    spare = [part(1, is_reference=False)] * 2
    assert gaps_of(sps(), [idr(), *spare, part(1), part(2, is_reference=False), part(2)]) == []
    assert gaps_of(sps(), [idr(), *spare, part(2)]) == [3]


def test_behind_a_damaged_header_the_count_is_unknown():
    assert gaps_of(sps(), [idr(), part(1), b"\0\0\1\x41", part(3), part(4)]) == []
    assert gaps_of(sps(), [idr(), part(1), b"\0\0\1\x41", part(3), part(5)]) == [4]


def test_bytes_that_keep_start_codes_out_are_no_part_of_a_header():
    header = sps(number=70)
    assert b"\0\0\3" in header
    assert gaps_of(header, [idr(), part(1), part(2), part(4)]) == [3]


def test_the_count_has_up_to_16_bits():
    slices = [part(n % (1 << 16), bits=16) for n in range(65500, 65600)]
    assert gaps_of(sps(bits=16), slices) == []
    assert gaps_of(sps(bits=16), slices[:36] + slices[37:]) == [36]


@pytest.mark.parametrize(("chroma", "lists"), [(1, 8), (3, 12)])
@pytest.mark.parametrize("written_list", [0, 5, 6, 7, 11])
def test_scaling_lists_are_read_over(chroma, lists, written_list):
    """The list ends where a scale is 0, and each other one is a difference."""
    for deltas in ([1] * 64, [-8], [3, -3, 2, -10]):
        length = 16 if written_list < 6 else 64
        matrices = []
        for i in range(lists):
            matrices.append((int(i == written_list), 1))
            if i == written_list:
                matrices += [signed(delta) for delta in deltas[:length]]
        planes = [(0, 1)] if chroma == 3 else []
        header = sps(high=[(chroma, None), *planes, (0, None), (0, None), (0, 1), (1, 1), *matrices])
        assert gaps_of(header, [idr(), part(1), part(2), part(4)]) == [3]


def test_parameter_sets_of_an_avcc_box():
    sequence, picture = (unit for unit in sps().split(b"\0\0\1") if unit)
    sized = [len(unit).to_bytes(2, "big") + unit for unit in (sequence, picture)]
    box = b"\1\x42\0\x1e\xff\xe1" + sized[0] + b"\1" + sized[1]
    units = [one.removeprefix(b"\0\0\1") for one in (idr(), part(1), part(3), part(4))]
    packets = dict(enumerate(len(unit).to_bytes(4, "big") + unit for unit in units))
    assert gaps("h264", packets, box) == [2]
