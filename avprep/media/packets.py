"""A stream's packets from an instant on, however the container seeks."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream

_BACK_OFF_S = (0, 2, 10, 60)  # how far before the target to try a seek whose container is imprecise


def packets_from(container: InputContainer, stream: Stream, tick: int) -> Iterator[Packet]:
    """The stream's packets from a keyframe at or before `tick`; from the file's beginning if none is.

    Containers seek with their own precision: what arrives is looked at, and the seek repeated further
    back until it is early enough.
    """
    begin = container.start_time or 0
    second = int(1 / stream.time_base)
    near_begin = tick - second * _BACK_OFF_S[1] <= begin * second // av.time_base
    for back_s in () if near_begin else _BACK_OFF_S:
        try:
            container.seek(max(0, tick - back_s * second), stream=stream)
        except av.FFmpegError:
            break
        packets = _readable(container, stream)
        head = next((p for p in packets if p.is_keyframe and p.pts is not None), None)
        if head is not None and head.pts <= tick:
            yield from chain([head], packets)
            return
    _rewind(container, begin)
    yield from _readable(container, stream)


def _rewind(container: InputContainer, begin: int) -> None:
    """To the very first packet. In MP4 some lie before time 0 (an edit list's), so further back is asked
    for; other containers land anywhere when asked for a time they do not have."""
    early = 10 * av.time_base if container.format.name.startswith("mov") else 0
    try:
        container.seek(begin - early)
    except av.FFmpegError:
        return  # a stream that cannot seek is read on; what is missing then shows as truncated


def _readable(container: InputContainer, stream: Stream) -> Iterator[Packet]:
    """Packets until the file ends or cannot be read on; the last, empty one (flush) is left out."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.FFmpegError:
            return  # cut or damaged from here on: what is missing shows as truncated
        if packet is None:
            return
        if packet.size:
            yield packet
