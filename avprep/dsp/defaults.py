"""What Griffin-Lim does unless it is told otherwise: numbers alone, for who shows them without torch."""

from __future__ import annotations

ITERATIONS = 32  # the table in the README says what fewer cost and more gain
MOMENTUM = 0.99  # Perraudin, Balazs, Sondergaard 2013: 'fast' Griffin-Lim
