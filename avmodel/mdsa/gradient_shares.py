"""Which terms of the loss drive the training: the share of each in the gradient.

    gradient_share/STREAM/TERM   |g_TERM| / sum |g|, g = d (weighted term) / d (weight of the last layer of
                                 the stream's decoder). The shares of a stream sum to 1
    kl_share/STREAM              |g_kl| / (|g_kl| + |g_rest|), g = d . / d (mean of the posterior), over the
                                 stream's planes; the rest is all of the loss but this stream's KL

The gradient is compared at the last layer, as VQGAN's adaptive factor does (Esser et al. 2021), and not at
x_hat. A term that pushes neighbouring pixels up and down is large at x_hat, and cancels in the sum over
positions and clips, which is what the optimizer receives. The cost is the same: nearly all of it is the
backward pass through LPIPS and the discriminators.

The KL term of the posterior does not reach the decoder. It meets the other terms at the mean of the
posterior, so it is compared there, with the gradient that the step's own backward pass brings: no second pass
goes through the network. The log-variance is left out: saturation is a matter of the mean.

The norms are of a micro-batch of one process, before gradients are averaged. What is logged is their mean.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from avmodel.mdsa.model import Posterior

SMALLEST = torch.finfo(torch.float32).tiny  # no gradient at all gives shares of 0, not NaN


class GradientShares:
    """The shares in one forward pass. Made before its backward pass, and read after it.

    Neither changes a gradient or waits for the device.

    Args:
        weighted: the terms by stream and name, () each, as they are in the loss; streams in the order of the
            latent's planes.
        last_layers: the weight of the last layer of each stream's decoder.
        posterior: of the pass.
    """

    def __init__(
        self,
        weighted: Mapping[str, Mapping[str, Tensor]],
        last_layers: Mapping[str, Tensor],
        posterior: Posterior,
    ) -> None:
        self._posterior = posterior
        self._scalars: dict[str, Tensor] = {}
        self._kl: dict[str, Tensor] = {}  # d (weighted KL) / d mean, (B,C,P,rows,columns), by stream
        for stream, terms in weighted.items():
            shares = shares_of(terms, last_layers[stream])
            self._scalars |= {f"gradient_share/{stream}/{name}": share for name, share in shares.items()}
            if "kl" in terms and "kl" not in shares:
                [self._kl[stream]] = torch.autograd.grad(terms["kl"], posterior.mean, retain_graph=True)
        posterior.mean.retain_grad()  # from here on: `torch.autograd.grad` above would be kept too
        self._streams = list(weighted)

    def read(self, scale: float) -> dict[str, Tensor]:
        """The shares by name, () each.

        Args:
            scale: what the loss was multiplied with before the backward pass.
        """
        if not self._kl:
            return self._scalars
        whole = self._posterior.mean.grad
        assert whole is not None  # the backward pass has reached the mean
        found = dict(self._scalars)
        for stream, kl in self._kl.items():
            own = self._posterior._replace(mean=kl), self._posterior._replace(mean=whole / scale - kl)
            index = self._streams.index(stream)
            kl_norm, rest = (part.of_stream(index)[0].norm() for part in own)
            found[f"kl_share/{stream}"] = kl_norm / (kl_norm + rest).clamp_min(SMALLEST)
        return found


def shares_of(terms: Mapping[str, Tensor], weight: Tensor) -> dict[str, Tensor]:
    """|d term / d weight| of each term that depends on the weight, divided by their sum.

    Args:
        terms: () each; their graph is kept.
    """
    norms: dict[str, Tensor] = {}
    for name, term in terms.items():
        [gradient] = torch.autograd.grad(term, weight, retain_graph=True, allow_unused=True)
        if gradient is not None:
            norms[name] = gradient.float().norm()
    total = torch.stack(list(norms.values())).sum().clamp_min(SMALLEST)
    return {name: norm / total for name, norm in norms.items()}
