"""A run in which everything fails by a fault of avprep ends early: going on would fail all the rest."""

from __future__ import annotations

from avprep.jobs.output import JobError

FIRST = 200  # outcomes, all of them faults, that end a run


class FaultWatch:
    """Counts the outcomes of a run until one is no fault of avprep (`Reason.UNFORESEEN`)."""

    def __init__(self, what: str) -> None:
        """`what` is counted: 'files' or 'clips'."""
        self._what = what
        self._faults = 0
        self._is_over = False

    def count(self, outcomes: int, faults: int, example: str) -> None:
        """Counts `outcomes`, of which so many are faults.

        Args:
            example: the detail of one of the faults, or where to find it.

        Raises:
            JobError: the first `FIRST` outcomes or more are all faults.
        """
        self._is_over = self._is_over or faults < outcomes
        self._faults += faults
        if not self._is_over and self._faults >= FIRST:
            raise JobError(
                f"the first {self._faults:,} {self._what} all failed by a fault of avprep, "
                f"so that the run ends here ({example}). After the fix, run the same command again; "
                f"only_failed=True tries again what is in the ledgers"
            )
