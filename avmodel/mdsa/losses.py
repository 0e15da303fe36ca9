"""The losses of the MDSA (paper eq 10-12; PVDM's losses/perceptual.py), for one modality at a time.

    L   = pixel*mean|x - x_hat| + mse*mean(x - x_hat)^2 + kl*KL + lpips*LPIPS + gamma*(g + fm*FM)
                                                                                  each modality times 0.5
    g   = -mean D2(x_hat frame) - mean D3(x_hat)
    FM  = sum over the layers of D2 and D3 but the logits of mean|f(x_hat) - stop-gradient f(x)|
    L_D = mean relu(1 - D(x))/2 + mean relu(1 + D(x_hat))/2, for D2 and D3

x and x_hat are clips (B,C,T,H,W) in [-1,1]: C = 3 for video, 1 for mel stacks. LPIPS and D2 see one random
frame of each clip. Every loss is a scalar.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avmodel.config import KL_TERMS, KlTerm
from avmodel.mdsa.lpips import LPIPS
from avmodel.mdsa.options import LossWeights

ADVERSARIAL = ("gan", "fm")  # the terms that gamma weighs
DARKEST = 1 / 255  # added to pixels in [0, 1]: log(p/q) of a black pixel is finite
LARGEST_ADAPTIVE = 1e4  # as in VQGAN


def gamma_at(step: int, disc_start: int, ramp: int) -> float:
    """The weight of the adversarial terms: 0 before `disc_start`, then rising linearly to 1 over `ramp` steps
    (0: at once)."""
    if step < disc_start:
        return 0.0
    return min(1.0, (step - disc_start + 1) / ramp) if ramp else 1.0


def kl_divergence(mu: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mu, e^logvar) || N(0, 1)) in nats, summed over a clip, averaged over the batch.

    tanh, which the latent goes through, leaves it unchanged.

    Args:
        mu, logvar: of one shape, batch first.
    """
    mu, logvar = mu.float(), logvar.float()
    return 0.5 * (mu.square() + logvar.exp() - 1 - logvar).sum() / mu.shape[0]


def data_kl(x: Tensor, x_hat: Tensor) -> Tensor:
    """Eq 11 read literally, over pixels: sum p log(p/q) in nats, averaged over the batch.

    p and q are the pixels of a clip and of its reconstruction, mapped to [0, 1] and divided by their sum, so
    that each clip is a distribution over its pixels.
    """
    p, q = (_distribution(clips) for clips in (x, x_hat))
    # + q - p, which sums to 0, makes every term at least 0: what is left of small differences is exact.
    return (p * (p / q).log() + q - p).sum(1).mean()


def _distribution(clips: Tensor) -> Tensor:
    """(B,...) in [-1,1] -> (B,N), positive, with a sum of 1."""
    shares = (clips.float().flatten(1) + 1) / 2 + DARKEST
    return shares / shares.sum(1, keepdim=True)


def hinge_d(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Hinge loss of one discriminator: 0 where all real logits are above 1 and all fake ones below -1."""
    return 0.5 * (F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean())


def hinge_g(fake_logits: Sequence[Tensor]) -> Tensor:
    """g: minus the mean logit of each discriminator on the reconstructions, summed."""
    return -_total(logits.mean() for logits in fake_logits)


def feature_matching(fake_features: Sequence[Tensor], real_features: Sequence[Tensor]) -> Tensor:
    """Sum over layers of the mean absolute difference; no gradient reaches the real features."""
    pairs = zip(fake_features, real_features, strict=True)
    return _total(F.l1_loss(fake, real.detach()) for fake, real in pairs)


def _total(terms: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(terms)).sum()


def random_frames(batch: int, frames: int, generator: torch.Generator) -> Tensor:
    """One frame's index for each clip: (batch,) integers below `frames`, on the generator's device."""
    return torch.randint(frames, (batch,), generator=generator, device=generator.device)


def take_frames(clips: Tensor, index: Tensor) -> Tensor:
    """Clips (B,C,T,H,W) and a frame's index for each (B,) to frames (B,C,H,W)."""
    return clips[torch.arange(len(clips), device=clips.device), :, index.to(clips.device)]


class GeneratorLoss(NamedTuple):
    """One modality's share of eq 10. Every value is a scalar."""

    total: Tensor  # what the autoencoder trains on, summed over the modalities
    terms: dict[str, Tensor]  # before their weights, detached: l1, mse, kl, lpips, gan, fm, and `adaptive`
    weighted: dict[str, Tensor]  # the terms as they are in the total, which is their sum; with gradient


def generator_loss(
    x: Tensor,
    x_hat: Tensor,
    *,
    frames: Tensor,
    weights: LossWeights,
    kl: KlTerm,
    posterior: tuple[Tensor, Tensor] | None,
    lpips: LPIPS | None,
    discriminators: nn.Module | None,
    gamma: float,
    last_layer: Tensor | None = None,
) -> GeneratorLoss:
    """The loss of one modality.

    Args:
        x, x_hat: clips (B,C,T,H,W) and their reconstructions.
        frames: (B,) from `random_frames`.
        kl: which KL; 'none' in stage 1.
        posterior: (mu, logvar), batch first; needed by kl 'latent' alone.
        lpips: None leaves the term out.
        discriminators: `Discriminators`, not its DDP wrapper: this step trains none of it. Not called, and
            may be None, where gamma is 0.
        gamma: from `gamma_at`.
        last_layer: the weight of the decoder's last layer, which gives gamma VQGAN's adaptive factor; None:
            without the factor.

    Raises:
        ValueError: an unknown kl, kl 'latent' without a posterior, or gamma without discriminators.
    """
    terms = {"l1": F.l1_loss(x_hat, x)} | _kl_term(kl, x, x_hat, posterior)
    if weights.mse:
        terms["mse"] = F.mse_loss(x_hat, x)
    if lpips is not None:
        terms["lpips"] = lpips(_picture(take_frames(x, frames)), _picture(take_frames(x_hat, frames))).mean()
    if gamma:
        if discriminators is None:
            raise ValueError(f"gamma {gamma} needs discriminators")
        terms |= _adversarial_terms(x, x_hat, frames, discriminators)
    factor = {"l1": weights.pixel, "mse": weights.mse, "kl": weights.kl, "lpips": weights.lpips}
    factor |= {"gan": gamma, "fm": gamma * weights.fm}
    weighted = {name: factor[name] * term for name, term in terms.items()}
    shown = {name: term.detach() for name, term in terms.items()}
    if gamma and last_layer is not None:
        adversarial = _total(weighted[name] for name in ADVERSARIAL)
        others = _total(term for name, term in weighted.items() if name not in ADVERSARIAL)
        shown["adaptive"] = adaptive_factor(others, adversarial / gamma, last_layer)
        weighted |= {name: shown["adaptive"] * weighted[name] for name in ADVERSARIAL}
    weighted = {name: weights.modality * term for name, term in weighted.items()}
    return GeneratorLoss(_total(weighted.values()), shown, weighted)


def _kl_term(
    kl: KlTerm, x: Tensor, x_hat: Tensor, posterior: tuple[Tensor, Tensor] | None
) -> dict[str, Tensor]:
    """{'kl': the term}; {} for 'none'."""
    if kl == "none":
        return {}
    if kl == "data":
        return {"kl": data_kl(x, x_hat)}
    if kl != "latent":
        raise ValueError(f"kl must be one of {', '.join(KL_TERMS)}, not {kl!r}")
    if posterior is None:
        raise ValueError("kl 'latent' needs the posterior's mu and logvar")
    return {"kl": kl_divergence(*posterior)}


def adaptive_factor(others: Tensor, adversarial: Tensor, last_layer: Tensor) -> Tensor:
    """|d others / d last_layer| / |d adversarial / d last_layer| (Esser et al. 2021, eq 7), without gradient:
    with it both change the decoder's last layer by as much.
    """
    gradients = [
        torch.autograd.grad(loss, last_layer, retain_graph=True)[0] for loss in (others, adversarial)
    ]
    norm, adversarial_norm = (gradient.float().norm() for gradient in gradients)
    return (norm / (adversarial_norm + 1e-4)).clamp(0, LARGEST_ADAPTIVE).detach()


def discriminator_loss(
    x: Tensor, x_hat: Tensor, *, frames: Tensor, discriminators: nn.Module
) -> tuple[Tensor, dict[str, Tensor]]:
    """L_D of one modality, for the step of its discriminators; there is no such step while gamma is 0.

    Args:
        x, x_hat: clips and their reconstructions; no gradient reaches either.
        frames: (B,) from `random_frames`.
        discriminators: `Discriminators` or its DDP wrapper.

    Returns:
        The sum over D2 and D3, and of each, detached: the hinge loss d2 and the mean logits d2_real and
        d2_fake; d3 likewise.
    """
    x, x_hat = x.detach(), x_hat.detach()
    real = discriminators(take_frames(x, frames), x)
    fake = discriminators(take_frames(x_hat, frames), x_hat)
    total, terms = torch.zeros((), device=x.device), dict[str, Tensor]()
    for name, (real_logits, _), (fake_logits, _) in zip(("d2", "d3"), real, fake, strict=True):
        loss = hinge_d(real_logits, fake_logits)
        total = total + loss
        terms |= {name: loss, f"{name}_real": real_logits.mean(), f"{name}_fake": fake_logits.mean()}
    return total, {name: term.detach() for name, term in terms.items()}


class DiscriminatorStep(nn.ModuleDict):
    """{stream: Discriminators}, and L_D of a batch as one forward, which DDP asks for."""

    def forward(
        self, clips: dict[str, Tensor], x_hat: dict[str, Tensor], frames: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum of L_D over the streams, and its terms by 'STREAM/NAME'."""
        total, terms = torch.zeros((), device=frames.device), dict[str, Tensor]()
        for stream, discriminators in self.items():
            loss, parts = discriminator_loss(
                clips[stream], x_hat[stream], frames=frames, discriminators=discriminators
            )
            total = total + loss
            terms |= {f"{stream}/{name}": value for name, value in parts.items()}
        return total, terms


def _adversarial_terms(
    x: Tensor, x_hat: Tensor, frames: Tensor, discriminators: nn.Module
) -> dict[str, Tensor]:
    with torch.no_grad():
        real = discriminators(take_frames(x, frames), x)
    with _frozen(discriminators):
        fake = discriminators(take_frames(x_hat, frames), x_hat)
    fm = _total(feature_matching(f, r) for (_, f), (_, r) in zip(fake, real, strict=True))
    return {"gan": hinge_g([logits for logits, _ in fake]), "fm": fm}


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """No gradients for the module's own parameters from what runs inside; those to its inputs flow."""
    trainable = [p for p in module.parameters() if p.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


def _picture(frames: Tensor) -> Tensor:
    """Spectrograms (B,1,H,W) as grey pictures (B,3,H,W); pictures as they are."""
    return frames.expand(-1, 3, -1, -1) if frames.shape[1] == 1 else frames
