"""Why a planned clip was not written: the small fixed set that the ledger, `status` and every error share."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """A ledger row's reason. `meaning` is the sentence that `avprep status` prints beside the count."""

    meaning: str

    def __new__(cls, value: str, meaning: str) -> Reason:
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member

    # failed: the source or the clip could not be read
    MISSING = "missing", "the file is not there"
    UNREADABLE = "unreadable", "the file cannot be opened or read from the disk"
    NOT_MEDIA = "not_media", "no accepted media container: empty, cut before its index, encrypted, a playlist"
    BAD_HEADER = "bad_header", "the header claims what cannot be: hours, pixels or rates out of all bounds"
    NO_VIDEO = "no_video", "no video stream, or no picture is shown yet when the clip starts"
    TRUNCATED = "truncated", "the video ends before the clip does"
    CORRUPT = "corrupt", "the decoder reports damage in the pictures that the clip needs"
    TIMEOUT = "timeout", "the source took longer than its time limit (--source-timeout)"
    CRASHED = "crashed", "the source takes the process that decodes it down; it is quarantined"
    NOT_FINITE = "not_finite", "the encoder gave NaN or infinity for the clip"
    # filtered: the clip is whole and not wanted
    TOO_SHORT = "too_short", "the source is shorter than one clip"
    SILENT = "silent", "no sound above the --drop-silent level"
    STATIC = "static", "the pictures do not change (--drop-static)"
    BLACK = "black", "the pictures are black (--drop-black)"


FILTERED = frozenset({Reason.TOO_SHORT, Reason.SILENT, Reason.STATIC, Reason.BLACK})


class MediaError(Exception):
    """A source or a clip that gives nothing: data, not a fault of the program. It becomes a ledger row.

    `reason` is one of the fixed set, `detail` a sentence with the figures.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason, detail)  # both, so that it survives the way between processes
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"
