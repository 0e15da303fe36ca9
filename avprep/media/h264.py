"""The headers of H.264, as far as they say which pictures follow one another (ITU-T H.264, 7.3 and 7.4)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

_IDR, _SPS, _PPS = 5, 7, 8  # nal_unit_type (table 7-1)
_SLICES = (1, 2, _IDR)
_HIGH_PROFILES = frozenset({44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 144, 244})
_HEADER = 128  # bytes of a slice that are read
_INTRA = (2, 4)  # slice_type modulo 5
_RESET = 5  # memory_management_control_operation
_OPERANDS = {1: 1, 2: 1, 3: 2, 4: 1, 6: 1}  # of the other operations


@dataclass(frozen=True)
class Slice:
    """What the header of a picture's first slice says."""

    frame_num: int
    frame_nums: int  # how many there are: the count begins anew after as many
    allows_gaps: bool  # gaps_in_frame_num_value_allowed_flag: pictures may be left out on purpose
    is_idr: bool
    is_reference: bool  # others may depend on its picture
    resets: bool  # the count begins anew after its picture; known of intra slices only


@dataclass(frozen=True)
class _Sequence:
    """A sequence parameter set."""

    frame_num_bits: int
    has_planes: bool  # separate_colour_plane_flag
    poc_type: int
    poc_bits: int  # of pic_order_cnt_lsb
    has_deltas: bool  # not delta_pic_order_always_zero_flag
    allows_gaps: bool
    has_fields: bool  # not frame_mbs_only_flag


@dataclass(frozen=True)
class _Picture:
    """A picture parameter set."""

    sequence: int
    has_bottom_poc: bool  # bottom_field_pic_order_in_frame_present_flag
    has_redundant: bool  # redundant_pic_cnt_present_flag


class SliceReader:
    """Reads the first slice header of each packet of a stream, in decoding order."""

    def __init__(self, extradata: bytes, length_size: int) -> None:
        """`length_size`: bytes of the length before each NAL unit; 0 where start codes are between them."""
        self._length_size = length_size
        self._sequences: dict[int, _Sequence] = {}
        self._pictures: dict[int, _Picture] = {}
        for unit in _avcc_units(extradata) if length_size else nal_units(extradata, 0):
            self._take_parameters(unit)

    def read(self, packet: bytes) -> Slice | None:
        """None where there is no slice, or its header is damaged or not understood."""
        for unit in nal_units(packet, self._length_size):
            if unit[0] & 0x1F in _SLICES:
                try:
                    return self._slice(unit)
                except (IndexError, ValueError, KeyError):
                    return None
            self._take_parameters(unit)
        return None

    def _take_parameters(self, unit: bytes) -> None:
        try:
            if unit[0] & 0x1F == _SPS:
                number, sequence = _read_sequence(_Bits(unit[1:]))
                self._sequences[number] = sequence
            elif unit[0] & 0x1F == _PPS:
                number, picture = _read_picture(_Bits(unit[1:]))
                self._pictures[number] = picture
        except (IndexError, ValueError):  # damaged: slices are read as those before were
            return

    def _slice(self, unit: bytes) -> Slice:
        """Raises IndexError, ValueError or KeyError for a header that is damaged."""
        bits = _Bits(unit[1:_HEADER])
        bits.ue()  # first_mb_in_slice
        is_intra = bits.ue() % 5 in _INTRA
        picture = self._pictures[bits.ue()]
        sequence = self._sequences[picture.sequence]
        bits.u(2 if sequence.has_planes else 0)
        number = bits.u(sequence.frame_num_bits)
        is_idr, is_reference = unit[0] & 0x1F == _IDR, bool(unit[0] & 0x60)
        return Slice(
            frame_num=number,
            frame_nums=1 << sequence.frame_num_bits,
            allows_gaps=sequence.allows_gaps,
            is_idr=is_idr,
            is_reference=is_reference,
            resets=is_reference and is_intra and not is_idr and _resets(bits, sequence, picture),
        )


def _resets(bits: _Bits, sequence: _Sequence, picture: _Picture) -> bool:
    """Whether an intra slice, read up to frame_num, holds memory_management_control_operation 5."""
    is_field = sequence.has_fields and bool(bits.u(1))
    bits.u(1 if is_field else 0)  # bottom_field_flag
    if sequence.poc_type == 0:
        bits.u(sequence.poc_bits)
    counts = sequence.poc_type == 0 or (sequence.poc_type == 1 and sequence.has_deltas)
    if sequence.poc_type == 1 and sequence.has_deltas:
        bits.se()
    if counts and picture.has_bottom_poc and not is_field:
        bits.se()
    if picture.has_redundant:
        bits.ue()
    if not bits.u(1):  # adaptive_ref_pic_marking_mode_flag
        return False
    while operation := bits.ue():
        if operation == _RESET:
            return True
        for _ in range(_OPERANDS[operation]):
            bits.ue()
    return False


def _read_sequence(bits: _Bits) -> tuple[int, _Sequence]:
    """Raises IndexError or ValueError where the unit ends early or cannot be."""
    profile = bits.u(8)
    bits.u(16)  # constraint flags, level_idc
    number = bits.ue()
    has_planes = False
    if profile in _HIGH_PROFILES:
        chroma = bits.ue()
        has_planes = chroma == 3 and bool(bits.u(1))
        bits.ue(), bits.ue()  # bit depths
        bits.u(1)  # qpprime_y_zero_transform_bypass_flag
        if bits.u(1):
            for i in range(12 if chroma == 3 else 8):
                if bits.u(1):
                    _skip_scaling_list(bits, 16 if i < 6 else 64)
    frame_num_bits, poc_type = bits.ue() + 4, bits.ue()
    poc_bits, has_deltas = 0, False
    if poc_type == 0:
        poc_bits = bits.ue() + 4
    elif poc_type == 1:
        has_deltas = not bits.u(1)
        bits.se(), bits.se()
        for _ in range(bits.ue()):
            bits.se()
    if max(frame_num_bits, poc_bits) > 16:
        raise ValueError("counts have 16 bits at most")
    bits.ue()  # max_num_ref_frames
    allows_gaps = bool(bits.u(1))
    bits.ue(), bits.ue()  # width and height
    has_fields = not bits.u(1)
    return number, _Sequence(
        frame_num_bits, has_planes, poc_type, poc_bits, has_deltas, allows_gaps, has_fields
    )


def _read_picture(bits: _Bits) -> tuple[int, _Picture]:
    """Raises IndexError or ValueError where the unit ends early or cannot be."""
    number, sequence = bits.ue(), bits.ue()
    bits.u(1)  # entropy_coding_mode_flag
    has_bottom_poc = bool(bits.u(1))
    if bits.ue():
        raise ValueError("slice groups")  # of the baseline profile, which has no intra slices that reset
    bits.ue(), bits.ue()  # default numbers of references
    bits.u(3)  # weighted prediction
    bits.se(), bits.se(), bits.se()  # quantisers
    bits.u(2)  # deblocking_filter_control_present_flag, constrained_intra_pred_flag
    return number, _Picture(sequence, has_bottom_poc, has_redundant=bool(bits.u(1)))


def _skip_scaling_list(bits: _Bits, size: int) -> None:
    scale = 8
    for _ in range(size):
        scale = (scale + bits.se()) % 256
        if not scale:  # the rest is as the one before
            return


def nal_units(data: bytes, length_size: int) -> Iterator[bytes]:
    """The NAL units of a packet of H.264 or HEVC; empty ones are left out."""
    if length_size:
        place = 0
        while place + length_size < len(data):
            length = int.from_bytes(data[place : place + length_size], "big")
            place += length_size
            if length:
                yield data[place : place + length]
            place += length
        return
    place = data.find(b"\0\0\1")
    while 0 <= place < len(data) - 3:
        end = data.find(b"\0\0\1", place + 3)
        if unit := data[place + 3 : end if end >= 0 else len(data)]:
            yield unit
        place = end


def _avcc_units(extradata: bytes) -> Iterator[bytes]:
    """The parameter sets of an avcC box (ISO 14496-15, 5.3.3)."""
    place = 5
    for mask in (0x1F, 0xFF):  # of the number of sequence, then of picture parameter sets
        if place >= len(extradata):
            return
        count, place = extradata[place] & mask, place + 1
        for _ in range(count):
            length = int.from_bytes(extradata[place : place + 2], "big")
            if unit := extradata[place + 2 : place + 2 + length]:
                yield unit
            place += 2 + length


class _Bits:
    """Reads the bits of a NAL unit, the highest of a byte first. Raises IndexError past the end."""

    def __init__(self, unit: bytes) -> None:
        data = unit.replace(b"\0\0\3", b"\0\0")  # the bytes that keep start codes out (7.4.1)
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def u(self, count: int) -> int:
        if count > self._left:
            raise IndexError("past the end")
        self._left -= count
        return self._value >> self._left & ((1 << count) - 1)

    def ue(self) -> int:
        """Exp-Golomb (9.1)."""
        zeros = 0
        while not self.u(1):
            zeros += 1
            if zeros > 32:
                raise ValueError("no Exp-Golomb code is so long")
        return (1 << zeros) - 1 + self.u(zeros)

    def se(self) -> int:
        code = self.ue()
        return (code + 1) // 2 if code % 2 else -(code // 2)
