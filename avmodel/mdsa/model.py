"""The MDSA: Multi-scale Dual-stream Spatio-temporal Autoencoder (ProAV-DiT, arXiv 2511.12072, section 3.2).

    clips {v: (B,3,T,S,S), a: (B,1,T,S,S)} in [-1,1]
      |  patch embedding, TimeSformer                 each stream its own weights
    tokens (B,T,G,G,D)
      |  projectors: over t, h, w                     to hw, tw, th
      |  SelfAttn on hw, MT-SelfAttn on tw and th     eq 4-5
      |  GCM-Attn between the streams                 eq 6
      |  1x1 convolution to mean and log-variance     no codebook: a Gaussian, squashed by tanh
    latent (B,C,P,rows,columns) in (-1,1)             see avmodel.latents
      |  1x1 convolution, expansion                   eq 7
      |  Bi-Block CrossAttn between the streams       eq 8
      |  TimeSformer, transposed convolution
    clips in [-1,1]

B clips, T frames, S pixels a side, G tokens a side, D width of a token, C latent channels, P planes.
Each stream is PVDM's autoencoder (Yu et al. 2023); what joins the streams is ProAV-DiT's.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from avmodel.config import MDSAConfig
from avmodel.latents import PLANES, Planes
from avmodel.mdsa.layers import TransformerLayer
from avmodel.mdsa.planes import (
    BiBlockAttention,
    Features,
    GCMAttention,
    MultiScaleTimeAttention,
    PlaneAttention,
    Projector,
    Projectors,
    StreamCrossAttention,
    TimeScale,
    expand,
)
from avmodel.mdsa.positions import LearnedPositions
from avmodel.mdsa.timesformer import PatchEmbedding, PixelHead, TimeSformer, TimeSformerLayer
from avprep.shards.latents import SATURATED

LOGVAR_RANGE = (-12.0, 4.0)
FIRST_LOGVAR = -6.0  # of stage 2
POSITIONS_STD = 0.02  # of learned plane positions, as in ViT
COMPILED_LAYERS = (TimeSformerLayer, TransformerLayer, MultiScaleTimeAttention, StreamCrossAttention)
Clips = dict[str, Tensor]


class Posterior(NamedTuple):
    """q(z|x): z = tanh(N(mean, e^logvar)), stacked as latents are.

    In the padding mean and logvar are 0, so that it adds nothing to the KL divergence from N(0,1), which tanh
    leaves unchanged.
    """

    mean: Tensor  # float32 (B,C,P,rows,columns), before tanh
    logvar: Tensor  # float32 (B,C,P,rows,columns), within LOGVAR_RANGE
    mask: Tensor  # bool (P,rows,columns): True where a value is real

    def latent(self) -> Tensor:
        """The latent without noise, tanh(mean): what stage 1 decodes and what is cached."""
        return self.mean.tanh()

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """A latent drawn from the posterior; zero in the padding."""
        noise = torch.empty_like(self.mean).normal_(generator=generator)
        return (self.mean + (0.5 * self.logvar).exp() * noise).tanh() * self.mask

    def saturated(self) -> Tensor:
        """(B,P): the share of a plane's real values that are beyond SATURATED, where tanh passes no gradient
        and a flow has a wall to learn."""
        beyond = (self.latent().abs() > SATURATED) & self.mask
        return beyond.sum((1, 3, 4)) / (self.mean.shape[1] * self.mask.sum((1, 2)))

    def of_stream(self, index: int) -> tuple[Tensor, Tensor]:
        """mean and logvar (B,C,3,rows,columns) of the index-th stream."""
        planes = slice(index * len(PLANES), (index + 1) * len(PLANES))
        return self.mean[:, :, planes], self.logvar[:, :, planes]


class StreamEncoder(nn.Module):
    """One stream's clip to its planes' features."""

    def __init__(self, config: MDSAConfig, channels: int, *, recompute: bool) -> None:
        super().__init__()
        self.embedding = PatchEmbedding(config, channels)
        self.timesformer = TimeSformer(config, recompute=recompute)
        self.projectors = Projectors(config, recompute=recompute)
        self.attention = PlaneAttention(config, recompute=recompute)

    def forward(self, clip: Tensor) -> Features:  # (B,C,T,S,S)
        tokens = self.timesformer(self.embedding(clip))  # (B,T,G,G,D)
        return self.attention(self.projectors(tokens))  # 3 x (B,rows,columns,D)


class GaussianHead(nn.Module):
    """A plane's features to mean and log-variance, by 1x1 convolutions, in float32 whatever autocast says."""

    def __init__(self, config: MDSAConfig) -> None:
        super().__init__()
        self.mean = nn.Linear(config.dim, config.latent_channels)
        self.logvar = nn.Linear(config.dim, config.latent_channels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # (B,rows,columns,D)
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            mean, logvar = self.mean(x), self.logvar(x).clamp(*LOGVAR_RANGE)
        return mean.permute(0, 3, 1, 2), logvar.permute(0, 3, 1, 2)  # (B,C,rows,columns)


class LatentEmbedding(nn.Module):
    """One stream's latent planes to tokens: 1x1 convolutions and eq 7."""

    def __init__(self, config: MDSAConfig) -> None:
        super().__init__()
        self.planes = nn.ModuleDict({p: nn.Linear(config.latent_channels, config.dim) for p in PLANES})

    def forward(self, latent: Planes) -> Tensor:  # 3 x (B,C,rows,columns)
        planes = latent._asdict()
        return expand({p: linear(planes[p].permute(0, 2, 3, 1)) for p, linear in self.planes.items()})


class StreamDecoder(nn.Module):
    """One stream's tokens to its clip."""

    def __init__(self, config: MDSAConfig, channels: int, *, recompute: bool) -> None:
        super().__init__()
        self.timesformer = TimeSformer(config, recompute=recompute)
        self.pixels = PixelHead(config, channels)

    def forward(self, tokens: Tensor) -> Tensor:  # (B,T,G,G,D)
        return self.pixels(self.timesformer(tokens))  # (B,C,T,S,S)


class MDSA(nn.Module):
    """The autoencoder. Clips go in and come out as {stream: (B,C,T,S,S)}, one entry a stream of the config.

    Args:
        checkpoint_activations: layers' activations are computed again in backward instead of kept.
    """

    mask: Tensor  # bool (P,rows,columns)

    def __init__(self, config: MDSAConfig, *, checkpoint_activations: bool = False) -> None:
        super().__init__()
        self.config, self.layout = config, config.layout
        recompute = checkpoint_activations
        channels = config.channels
        joint = len(channels) == 2
        self.encoders = nn.ModuleDict(
            {s: StreamEncoder(config, n, recompute=recompute) for s, n in channels.items()}
        )
        self.gcm = GCMAttention(config, recompute=recompute) if joint and config.gcm_attn else None
        self.heads = nn.ModuleDict({f"{s}_{p}": GaussianHead(config) for s in channels for p in PLANES})
        self.embeddings = nn.ModuleDict({s: LatentEmbedding(config) for s in channels})
        self.bi_block = BiBlockAttention(config, recompute=recompute) if joint and config.bi_block else None
        self.decoders = nn.ModuleDict(
            {s: StreamDecoder(config, n, recompute=recompute) for s, n in channels.items()}
        )
        self.register_buffer("mask", self.layout.mask(torch.get_default_device()), persistent=False)
        init_weights(self)

    def encode(self, clips: Clips) -> Posterior:
        """Clips in [-1,1] to their posterior."""
        features = {stream: encoder(clips[stream]) for stream, encoder in self.encoders.items()}
        if self.gcm is not None:
            features["v"], features["a"] = self.gcm(features["v"], features["a"])
        means: dict[str, Planes] = {}
        logvars: dict[str, Planes] = {}
        for stream, planes in features.items():
            heads = [self.heads[f"{stream}_{plane}"](planes[plane]) for plane in PLANES]
            means[stream] = Planes(*(mean for mean, _ in heads))
            logvars[stream] = Planes(*(logvar for _, logvar in heads))
        return Posterior(self.layout.stack(means), self.layout.stack(logvars), self.mask)

    def decode(self, latent: Tensor) -> Clips:
        """A latent (B,C,P,rows,columns) to clips in [-1,1]; what stands in its padding does not matter."""
        planes = self.layout.unstack(latent)
        tokens = {stream: embed(planes[stream]) for stream, embed in self.embeddings.items()}
        if self.bi_block is not None:
            tokens["v"], tokens["a"] = self.bi_block(tokens["v"], tokens["a"])
        return {stream: decoder(tokens[stream]) for stream, decoder in self.decoders.items()}

    def forward(
        self, clips: Clips, *, sample: bool, generator: torch.Generator | None = None
    ) -> tuple[Clips, Posterior]:
        """The reconstruction of the clips and their posterior.

        Args:
            sample: decode a draw from the posterior (stage 2) and not its tanh(mean) (stage 1).
        """
        posterior = self.encode(clips)
        latent = posterior.sample(generator) if sample else posterior.latent()
        return self.decode(latent), posterior

    def last_layer(self, stream: str) -> Tensor:
        """The weight of the last layer of a stream's decoder."""
        return cast(StreamDecoder, self.decoders[stream]).pixels.conv.weight

    def compile_layers(self) -> None:
        """Compiles the layers and not the whole: equal layers share one graph, which is made in a fraction of
        the time, is kept when stage 2 begins, and lies inside recomputation, where DDP needs it."""
        for module in self.modules():
            if isinstance(module, COMPILED_LAYERS):
                module.forward = torch.compile(module.forward, dynamic=False)  # type: ignore

    def freeze_logvar(self) -> None:
        """For stage 1, which does not train the log-variance: DDP takes no parameter without a gradient."""
        for head in self.heads.values():
            head.logvar.requires_grad_(False)

    def start_logvar(self) -> None:
        """For the start of stage 2: log-variance at FIRST_LOGVAR everywhere, and trained from here on."""
        for head in self.heads.values():
            head.logvar.requires_grad_(True)
            _set_first_logvar(cast(GaussianHead, head))


def _set_first_logvar(head: GaussianHead) -> None:
    nn.init.zeros_(head.logvar.weight)
    nn.init.constant_(head.logvar.bias, FIRST_LOGVAR)


def init_weights(model: nn.Module) -> None:
    """What does not start from PyTorch's initial values, which PVDM takes throughout."""
    for module in model.modules():
        if isinstance(module, Projector):
            nn.init.normal_(module.token)
            nn.init.normal_(module.positions)
        elif isinstance(module, LearnedPositions):
            nn.init.normal_(module.table, std=POSITIONS_STD)
        elif isinstance(module, TimeScale):  # eq 5 starts as the identity
            nn.init.zeros_(module.up.weight)
            nn.init.zeros_(cast(Tensor, module.up.bias))
        elif isinstance(module, GaussianHead):
            _set_first_logvar(module)
