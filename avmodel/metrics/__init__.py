"""Metrics of generated clips (docs/model.md 6)."""

from avprep.errors import AvprepError


class MetricError(AvprepError, ValueError):
    """A metric that cannot be computed: the message says what is missing or wrong, and no number is given."""
