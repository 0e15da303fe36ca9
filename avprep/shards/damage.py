"""What a reader does with a damaged shard. Light: the command line reads the choices here for its help."""

from __future__ import annotations

from typing import Literal

OnDamage = Literal["end", "skip"]  # end the run with a message, or leave the shard out
ON_DAMAGE: tuple[OnDamage, ...] = ("end", "skip")
