"""The solvers of the flow: the choices alone, for who shows them without torch."""

from __future__ import annotations

from typing import Literal

Solver = Literal["euler", "midpoint"]
SOLVERS: tuple[Solver, ...] = ("euler", "midpoint")
