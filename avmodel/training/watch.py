"""Early warnings: what a look at the log would find, printed while there is time to stop a run.

A warning is printed when its sign appears, and again only after it has gone away.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from tqdm import tqdm

RISEN = 2.0  # times the lowest value so far
GRADIENTS = 100.0  # times the largest norm that is not clipped
IDLE = 0.5  # share of the time that is spent waiting for data
SATURATED = 0.5  # share of a plane's values
FAR = (0.5, 1.6)  # times the noise's standard deviation; 1 / 0.54 = 1.85 is that of signs
WON = 0.02  # hinge loss of a discriminator below which it tells all clips apart


class Watch:
    """Prints warnings on rank 0.

    Args:
        falling: names of losses whose sum should fall, through all stages.
        clip_grad: the largest gradient norm that is not clipped.
    """

    def __init__(self, falling: Sequence[str], *, clip_grad: float, is_first: bool = True) -> None:
        self._falling, self._clip_grad, self._is_first = tuple(falling), clip_grad, is_first
        self.best = ""  # the best checkpoint so far, in words
        self._lowest: tuple[float, int] | None = None  # the sum of `falling`, and its step
        self._active: set[str] = set()
        self._readings = 0

    def scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Looks at the means of the last steps."""
        self._readings += 1
        signs = self._risen(step, scalars) | self._gradients(scalars) | _won(scalars)
        if self._readings > 1:  # the first one includes the start of the loader
            signs |= _idle(scalars)
        self._print(step, signs, {"risen", "gradients", "idle", *_judges(scalars)})

    def saturation(self, step: int, shares: Mapping[str, float]) -> None:
        """Looks at the share of each plane's values that tanh has at the edge."""
        planes = ", ".join(f"{plane} {100 * share:.0f} %" for plane, share in shares.items())
        signs = {}
        if max(shares.values(), default=0.0) > SATURATED:
            signs["saturated"] = (
                f"saturated latents ({planes} of the values at the edge): they hold signs, not numbers. A "
                f"lower `lr`, an earlier stage 2, or `kl_stage1` keeps them inside"
            )
        self._print(step, signs, {"saturated"})

    def spread(self, step: int, deviations: Mapping[str, float], *, of_noise: float) -> None:
        """Looks at the standard deviation of each plane's values in the latents that a flow is trained on."""
        far = {p: std for p, std in deviations.items() if not FAR[0] <= std / of_noise <= FAR[1]}
        planes = ", ".join(f"{plane} {std:.3f}" for plane, std in far.items())
        signs = {
            "spread": f"latents whose deviation is far from that of the flow's noise, {of_noise:.2f}: "
            f"{planes}. Near 0 they hold little, near 1 they are signs; docs/model.md says what helps"
        }
        self._print(step, signs if far else {}, {"spread"})

    def _risen(self, step: int, scalars: Mapping[str, float]) -> dict[str, str]:
        names = [name for name in self._falling if name in scalars]
        if not names:
            return {}
        value = sum(scalars[name] for name in names)
        if self._lowest is None or value < self._lowest[0]:
            self._lowest = value, step
        lowest, at = self._lowest
        if value <= RISEN * lowest:
            return {}
        what = " + ".join(names)
        return {
            "risen": f"{what} is {value:.4g}, {value / lowest:.1f} times its lowest ({lowest:.4g} at step "
            f"{at}): the run may be lost. {self.best or 'No checkpoint is known to be better'}"
        }

    def _gradients(self, scalars: Mapping[str, float]) -> dict[str, str]:
        norm = scalars.get("gradient_norm", 0.0)
        if norm <= GRADIENTS * self._clip_grad:
            return {}
        parts = {name: value for name, value in scalars.items() if name.startswith("gradient/")}
        most = max(parts, key=lambda name: parts[name], default="gradient/?").removeprefix("gradient/")
        return {
            "gradients": f"gradient norm {norm:.3g}, clipped to {self._clip_grad:g}; most of it in {most}"
        }

    def _print(self, step: int, signs: Mapping[str, str], looked_at: set[str]) -> None:
        for name, message in signs.items():
            if name not in self._active and self._is_first:
                tqdm.write(f"step {step}: warning: {message}", file=sys.stderr)
        self._active = (self._active - looked_at) | set(signs)


def _judges(scalars: Mapping[str, float]) -> list[str]:
    return [name for name in scalars if name.rpartition("/")[2] in ("d2", "d3")]


def _won(scalars: Mapping[str, float]) -> dict[str, str]:
    return {
        name: f"discriminator {name} tells all clips apart (hinge loss {scalars[name]:.2g}): its gradients "
        f"carry little. A later `disc_start` or a smaller `disc_width` may help"
        for name in _judges(scalars)
        if scalars[name] < WON
    }


def _idle(scalars: Mapping[str, float]) -> dict[str, str]:
    share = scalars.get("data_wait", 0.0)
    if share <= IDLE:
        return {}
    return {"idle": f"{100 * share:.0f} % of the time is spent waiting for data: more `loader_workers`"}
