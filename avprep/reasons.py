"""Why a planned clip was not written: the small fixed set that the ledger, `status` and every error share."""

from __future__ import annotations

from enum import StrEnum

from avprep.errors import AvprepError


class Reason(StrEnum):
    """A ledger row's reason.

    `meaning` and `advice` are what `avprep status` prints beside the count: what happened, and what to do.
    """

    meaning: str
    advice: str

    def __new__(cls, value: str, meaning: str, advice: str) -> Reason:
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning, member.advice = meaning, advice
        return member

    @classmethod
    def of(cls, value: str) -> Reason:
        """The reason of that value. Raises ValueError where there is none."""
        return cls(value)  # type: ignore[call-arg]  # mypy reads it as a call of __new__

    # failed: the source or the clip could not be read
    MISSING = (
        "missing",
        "the file is not there",
        "bring it back and try failed sources again",
    )
    UNREADABLE = (
        "unreadable",
        "the file cannot be opened or read from the disk",
        "look at its permissions and at the disk, then try failed sources again",
    )
    NOT_MEDIA = (
        "not_media",
        "no accepted media container: empty, cut before its index, encrypted, a playlist",
        "download it again, or take it out of the list",
    )
    BAD_HEADER = (
        "bad_header",
        "numbers in the header are out of all bounds: hours, pixels or rates",
        "convert it with ffmpeg, which writes a new header",
    )
    NO_VIDEO = (
        "no_video",
        "no video stream that can be decoded, or no picture is shown yet when the clip starts",
        "nothing, if it is sound alone; else find out with ffprobe what it holds",
    )
    TRUNCATED = (
        "truncated",
        "the file is cut off: its header or index promises more than it holds",
        "download it again; the clips before the cut are written",
    )
    CORRUPT = (
        "corrupt",
        "damage reaches the pictures of the clip: what the decoder reports, or pictures that are missing",
        "download it again; the clips that the damage does not reach are written",
    )
    TIMEOUT = (
        "timeout",
        "the source took longer than its time limit",
        "raise the time limit if the machine was busy or the disk slow, and try failed sources again",
    )
    CRASHED = (
        "crashed",
        "the source takes the process that decodes it down; it is quarantined",
        "convert it with ffmpeg, and report it: it is a fault of the decoder",
    )
    UNFORESEEN = (
        "unforeseen",
        "a fault of avprep itself ended the reading of the source, which may be whole",
        "report it with its detail, which names the place in the code; then try failed sources again",
    )
    NOT_FINITE = (
        "not_finite",
        "the encoder gave NaN or infinity for the clip",
        "look at the checkpoint if there are many",
    )
    BAD_ROW = (
        "bad_row",
        "the row of the list names no file or span",
        "mend the row; run again with the option that adds new sources",
    )
    # filtered: the clip is whole and not wanted
    TOO_SHORT = (
        "too_short",
        "the pictures of the source do not fill one clip",
        "nothing; fewer frames a clip or more of them a second would take it",
    )
    NO_EVENT = (
        "no_event",
        "clips start where events do, and no event of the source leaves room for one",
        "nothing; without events, clips follow one another through the whole source",
    )
    CUT = (
        "cut",
        "a clip that begins here contains a cut of the source; the next one begins after the cut",
        "nothing; shorter clips lose less to cuts",
    )
    SILENT = "silent", "no sound above the limit", "nothing; a lower limit keeps it"
    STATIC = "static", "the pictures do not change", "nothing; a lower limit keeps it"
    BLACK = "black", "the pictures are black", "nothing; a lower limit keeps it"
    RESIDUAL = (
        "residual",
        "a picture stands still over a jump of the clock, longer than the limit",
        "nothing; a higher limit keeps it",
    )
    UNSELECTED = (
        "unselected",
        "the clip is whole, and the selection that was encoded does not have it",
        "nothing; another selection, in another output, may have it",
    )


FILTERED = frozenset(
    {
        Reason.TOO_SHORT,
        Reason.NO_EVENT,
        Reason.CUT,
        Reason.SILENT,
        Reason.STATIC,
        Reason.BLACK,
        Reason.RESIDUAL,
        Reason.UNSELECTED,
    }
)


class MediaError(AvprepError):
    """A source or a clip that gives nothing: data, not a fault of the program. It becomes a ledger row.

    `reason` is one of the fixed set, `detail` a sentence with the figures.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason, detail)  # both, so that it survives the way between processes
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"
