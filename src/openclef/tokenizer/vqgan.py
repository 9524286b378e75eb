"""The convolutional vector-quantised autoencoder; EEG channels are its input channels.

Axis letters: B batch, R region, C EEG channel, F frequency bin, G band (`bands.py`), T frame, D
width, Q codes of a token; a prime (Fp, Tp) is the token grid. Every norm is over the width at one
position, and hidden positions are zeroed after each block, so that without attention the tokens of
a padded recording do not depend on how much padding follows.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from openclef.tokenizer.bands import band_widths, from_bands, to_bands
from openclef.tokenizer.norms import LatentNorm, PositionNorm, SpectrumNorm
from openclef.tokenizer.quantisers import EmaConfig, QuantiserConfig, make_quantiser
from openclef.tokenizer.regions import (
    Regions,
    from_planes,
    hidden_planes,
    membership,
    to_planes,
)
from openclef.types import CHANNELS

CLAMP_DB = 40.0


class TokenizerConfig(BaseModel):
    """Shape of the tokenizer.

    bands: how bins are merged before the first layer, (bins, so many at a time) from 0 Hz up; none:
    each bin by itself (the paper's [C]). strides: (bands, frames) of each level; their products
    give the grid, 128 / 16 = 8 rows by 1,280 / 5 = 256 columns (paper.md [I, strong]). widths,
    n_blocks: of each level; five of 64-128-256-256-32 with two blocks each in the sibling paper
    [S], the last being the code's.
    attention: of all visible positions at the token grid, as VQGAN has it [D]. regions: each has
    rows and columns of its own, made of its channels alone (feasibility: keeps laterality; ours).
    norm_decay: of the moving statistics of spectra and latents.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    n_freqs: int = 128
    n_frames: int = 1280
    regions: Regions = "all"
    bands: tuple[tuple[int, int], ...] = ()
    strides: tuple[tuple[int, int], ...] = ((2, 5), (2, 1), (2, 1), (2, 1))
    widths: tuple[int, ...] = (64, 128, 256, 256)
    n_blocks: int = Field(2, ge=1)
    attention: bool = True
    quantiser: QuantiserConfig = EmaConfig()
    norm_decay: float = Field(0.99, ge=0, lt=1)

    @model_validator(mode="after")
    def _grid_divides(self) -> TokenizerConfig:
        if min(min(stride) for stride in self.strides) < 1:
            raise ValueError(f"strides {self.strides}: each must be at least 1")
        if len(self.strides) != len(self.widths):
            raise ValueError(f"{len(self.strides)} strides for {len(self.widths)} widths")
        if min((min(stretch) for stretch in self.bands), default=1) < 1:
            raise ValueError(f"bands {self.bands}: each number must be at least 1")
        if sum(n_bins for n_bins, _ in self.frequency_scale) != self.n_freqs:
            n_bins = sum(n_bins for n_bins, _ in self.bands)
            raise ValueError(f"bands {self.bands} are of {n_bins} bins; give {self.n_freqs}")
        for n_bins, width in self.frequency_scale:
            if n_bins % width:
                near = max(1, round(n_bins / width)) * width
                raise ValueError(f"{n_bins} bins cannot be merged {width} at a time; {near} can")
        for size, axis in ((self.n_bands, 0), (self.n_frames, 1)):
            step = math.prod(stride[axis] for stride in self.strides)
            if size % step:
                raise ValueError(f"strides multiply to {step}, which does not divide {size}")
        return self

    @property
    def grid(self) -> tuple[int, int, int]:
        """(regions, frequency rows, time columns) of the tokens of one window."""
        f_step = math.prod(stride[0] for stride in self.strides)
        n_regions = len(membership(self.regions))
        return n_regions, self.n_bands // f_step, self.n_frames // self.frames_per_token

    @property
    def n_tokens(self) -> int:
        return math.prod(self.grid)

    @property
    def frequency_scale(self) -> tuple[tuple[int, int], ...]:
        """See `bands.py`."""
        return self.bands or ((self.n_freqs, 1),)

    @property
    def n_bands(self) -> int:
        return len(band_widths(self.frequency_scale))

    @property
    def row_edges(self) -> list[int]:
        """Bins where the rows of the grid begin, and where the last one ends."""
        n_rows = self.grid[1]
        widths = np.array(band_widths(self.frequency_scale)).reshape(n_rows, -1).sum(1)
        return [0, *np.cumsum(widths).tolist()]

    @property
    def frames_per_token(self) -> int:
        return math.prod(stride[1] for stride in self.strides)


def scale(power_db: Tensor) -> Tensor:
    """Clamp decibels to [-40, 40] and scale to [-1, 1] (paper.md [C/I]).

    Rounded to half precision first, as cohorts store it: a recording gives the same tokens
    whether it comes from a file or from a cohort.
    """
    return power_db.half().float().clamp(-CLAMP_DB, CLAMP_DB) / CLAMP_DB


def hidden_frames(time_mask: Tensor, n_frames: int) -> Tensor:
    """A stretch of frames is hidden if more than half of it is: `[.., T]` -> `[.., n_frames]`."""
    stretches = time_mask.unflatten(-1, (n_frames, time_mask.shape[-1] // n_frames))  # type: ignore[no-untyped-call]
    return stretches.float().mean(-1) > 0.5


class ResidualBlock(nn.Module):
    """norm - SiLU - 3 x 3 convolution, twice, added to the input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = PositionNorm(width), PositionNorm(width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        _start_at_nothing(self.conv2)

    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)) * visible)
        return x + self.conv2(F.silu(self.norm2(h)) * visible)


class AttentionBlock(nn.Module):
    """norm - attention of every position to all visible ones of its region, added to the input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.n_heads = max(1, width // 64)
        self.norm = PositionNorm(width)
        self.to_qkv = nn.Conv2d(width, 3 * width, 1)
        self.out = nn.Conv2d(width, width, 1)
        _start_at_nothing(self.out)

    def forward(self, x_BDFT: Tensor, visible: Tensor) -> Tensor:
        qkv = self.to_qkv(self.norm(x_BDFT)).flatten(2).unflatten(1, (3, self.n_heads, -1))
        q, k, v = qkv.transpose(-1, -2).unbind(1)
        seen = visible.expand(-1, 1, *x_BDFT.shape[2:]).flatten(2).unsqueeze(2)
        # Where nothing is visible anything may be read: it is zeroed later, and stays finite.
        seen = seen | ~seen.any(-1, keepdim=True)
        h = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        return x_BDFT + self.out(h.transpose(-1, -2).flatten(1, 2).view_as(x_BDFT))


def _start_at_nothing(layer: nn.Conv2d) -> None:
    """A branch that adds nothing until it is trained."""
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)


class Encoded(NamedTuple):
    """latent `[B, R, Fp, Tp, code_dim]`: continuous, each dimension standardised; visible
    `[B, R, Fp, Tp]`, and `hidden` `[B, R, Tp]`, its opposite by columns."""

    latent: Tensor
    visible: Tensor
    hidden: Tensor


class Vqgan(nn.Module):
    """Encoder, quantiser and decoder; its adversary is in `discriminator`."""

    membership: Tensor

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        n_chans, widths, code_dim = len(CHANNELS), config.widths, config.quantiser.code_dim
        self.register_buffer("membership", membership(config.regions), persistent=False)
        n_regions = len(self.membership)
        self.spectrum = SpectrumNorm(config.n_bands, decay=config.norm_decay)
        # Hidden planes are zeros; a bias a plane tells them from real zeros.
        self.missing = nn.Parameter(torch.zeros(n_chans, n_regions * widths[0]))
        n_in = (n_chans, *widths[:-1])
        n_out = (n_regions * widths[0], *widths[1:])
        self.down = nn.ModuleList(
            _patches(nn.Conv2d, i, o, s)
            for i, o, s in zip(n_in, n_out, config.strides, strict=True)
        )
        self.encode_blocks = _blocks(widths, config.n_blocks)
        self.encode_attention = AttentionBlock(widths[-1]) if config.attention else None
        self.to_code = nn.Conv2d(widths[-1], code_dim, 1, bias=False)
        self.latent_norm = LatentNorm(code_dim, decay=config.norm_decay)
        self.quantiser = make_quantiser(config.quantiser)
        self.from_code = nn.Conv2d(code_dim, widths[-1], 1)
        self.decode_attention = AttentionBlock(widths[-1]) if config.attention else None
        self.decode_blocks = _blocks(widths, config.n_blocks)
        self.up = nn.ModuleList(
            _patches(nn.ConvTranspose2d, o, i, s)
            for i, o, s in zip(n_in, n_out, config.strides, strict=True)
        )
        # Norms run over the width: channels last spares a copy each (twice as fast on a CPU).
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def last_layer(self) -> nn.Parameter:
        """Weights that the decoder ends with: what the adversarial weight is measured at."""
        weight: nn.Parameter = self.up[0].weight  # type: ignore[assignment]
        return weight

    def hidden(self, channel_mask: Tensor, time_mask: Tensor) -> Tensor:
        """Token columns without content: gap, padding, or no channel of the region.

        `[B, 19]`, `[B, T]` -> `[B, R, Tp]`; True = hidden.
        """
        n_columns = time_mask.shape[-1] // self.config.frames_per_token
        planes = hidden_planes(channel_mask, self.config.regions)
        unseen = ~((~planes)[:, None, :] & self.membership).any(-1)
        return unseen[:, :, None] | hidden_frames(time_mask, n_columns)[:, None, :]

    def encode(self, x_BCFT: Tensor, channel_mask: Tensor, time_mask: Tensor) -> Encoded:
        """Continuous latents of scaled spectrograms `[B, 19, F, T]`.

        channel_mask `[B, 19]` and time_mask `[B, T]` are True where hidden; what the spectrogram
        holds there is not read. Visible values must be finite: nothing here looks. Raises
        ValueError if T is not a multiple of `frames_per_token`.
        """
        n_frames, step = time_mask.shape[-1], self.config.frames_per_token
        if n_frames % step or n_frames == 0:
            nearest = max(step, round(n_frames / step) * step)
            raise ValueError(f"{n_frames} frames: give a multiple of {step}, such as {nearest}")
        x, shown = self.planes(x_BCFT, channel_mask, time_mask)
        if self.training:
            self.spectrum.update(x, shown)
        x = self.spectrum.standardise(x) * shown
        x = self.enter(x.contiguous(memory_format=torch.channels_last), channel_mask)
        for level, blocks in enumerate(self.encode_blocks):
            if level > 0:
                x = self.down[level](x)
            visible = self._visible(x, time_mask)
            x = x * visible
            for block in blocks:  # type: ignore[attr-defined]
                x = block(x, visible) * visible
        if self.encode_attention is not None:
            x = self.encode_attention(x, visible)
        z = self._split_regions(self.to_code(x).float()).movedim(2, -1)
        hidden = self.hidden(channel_mask, time_mask)
        seen = ~hidden[:, :, None, :].expand(z.shape[:-1])
        return Encoded(self.latent_norm(z, seen), seen, hidden)

    def decode(self, codes_BRFTD: Tensor, hidden_BRT: Tensor) -> Tensor:
        """Codes `[B, R, Fp, Tp, code_dim]` -> spectrogram `[B, 19, F, T]` in units of [-1, 1].

        hidden `[B, R, Tp]` is that of `hidden`; codes there are not read.
        """
        hidden = hidden_BRT.flatten(0, 1)[:, None, None, :]
        x = self.from_code(codes_BRFTD.movedim(-1, 2).flatten(0, 1))
        x = x.contiguous(memory_format=torch.channels_last)
        if self.decode_attention is not None:
            x = self.decode_attention(x, ~hidden)
        for level in reversed(range(len(self.up))):
            visible = ~hidden.repeat_interleave(x.shape[-1] // hidden.shape[-1], -1)
            x = x * visible
            for block in self.decode_blocks[level]:  # type: ignore[attr-defined]
                x = block(x, visible) * visible
            # Every channel may read every region: the midline lies in two.
            x = self.up[level](x if level else self._split_regions(x).flatten(1, 2))
        x = from_planes(self.spectrum.restore(x.float()), self.config.regions)
        return from_bands(x, self.config.frequency_scale)

    def standardise(self, x_BCFT: Tensor, channel_mask: Tensor, time_mask: Tensor) -> Tensor:
        """Planes `[B, 19, G, T]` of scaled spectrograms, each band standardised, 0 where hidden."""
        x, shown = self.planes(x_BCFT, channel_mask, time_mask)
        return self.spectrum.standardise(x) * shown

    @property
    def mean_db(self) -> Tensor:
        """Moving mean of the spectrograms trained on, `[19, F]`, dB."""
        mean = from_planes(self.spectrum.mean, self.config.regions) * CLAMP_DB
        return from_bands(mean, self.config.frequency_scale)[..., 0]

    @torch.no_grad()
    def tokenize(
        self, x_BCFT: Tensor, channel_mask: Tensor, time_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Token ids `[B, R, Fp, Tp, Q]` int64 of scaled spectrograms, and `hidden [B, R, Tp]`."""
        encoded = self.encode(x_BCFT, channel_mask, time_mask)
        return self.quantiser.encode(encoded.latent, encoded.visible), encoded.hidden

    @torch.no_grad()
    def reconstruct(self, ids_BRFTQ: Tensor, hidden_BRT: Tensor) -> Tensor:
        """Token ids `[B, R, Fp, Tp, Q]` -> decibels `[B, 19, F, T]`; hidden channels are guessed
        from the others."""
        return self.decode(self.quantiser.decode(ids_BRFTQ), hidden_BRT) * CLAMP_DB

    def planes(
        self, x_BCFT: Tensor, channel_mask: Tensor, time_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Planes `[B, 19, G, T]` of scaled spectrograms, 0 where hidden, and where they are shown,
        `[B, 19, 1, T]`. channel_mask `[B, 19]`, time_mask `[B, T]`: True = hidden."""
        regions = self.config.regions
        x = torch.where(channel_mask[:, :, None, None] | time_mask[:, None, None, :], 0.0, x_BCFT)
        hidden = hidden_planes(channel_mask, regions)
        shown = ~(hidden[:, :, None, None] | time_mask[:, None, None, :])
        return to_planes(to_bands(x, self.config.frequency_scale), channel_mask, regions), shown

    def enter(self, x_BCFT: Tensor, channel_mask: Tensor) -> Tensor:
        """First patches of standardised planes, each region's of its planes alone.

        `[B, 19, G, T]`, channel_mask `[B, 19]` -> `[B R, D, f, t]`.
        """
        first = self.down[0]
        assert isinstance(first, nn.Conv2d)
        in_region = self.membership.repeat_interleave(self.config.widths[0], 0)
        weight = first.weight * in_region[:, :, None, None]
        x = F.conv2d(x_BCFT, weight, first.bias, first.stride)
        hidden = hidden_planes(channel_mask, self.config.regions)
        missing = hidden.to(x.dtype) @ (self.missing * in_region.T)
        x = (x + missing[:, :, None, None]).unflatten(1, (len(self.membership), -1))  # type: ignore[no-untyped-call]
        return x.flatten(0, 1).contiguous(memory_format=torch.channels_last)

    def _split_regions(self, x: Tensor) -> Tensor:
        return x.unflatten(0, (-1, len(self.membership)))  # type: ignore[no-untyped-call]

    def _visible(self, x: Tensor, time_mask: Tensor) -> Tensor:
        """Visible positions at the time resolution of `x`, broadcast to it: `[B R, 1, 1, t]`."""
        hidden = hidden_frames(time_mask, x.shape[-1])
        return ~hidden.repeat_interleave(len(self.membership), 0)[:, None, None, :]


_Patches = type[nn.Conv2d] | type[nn.ConvTranspose2d]


def _patches(layer: _Patches, n_in: int, n_out: int, stride: tuple[int, int]) -> nn.Module:
    """A convolution whose kernel is its stride: patches that do not overlap, variance kept."""
    patches = layer(n_in, n_out, kernel_size=stride, stride=stride)
    n_inputs = n_in if layer is nn.ConvTranspose2d else n_in * math.prod(stride)
    nn.init.normal_(patches.weight, std=n_inputs**-0.5)
    return patches


def _blocks(widths: tuple[int, ...], n_blocks: int) -> nn.ModuleList:
    return nn.ModuleList(
        nn.ModuleList(ResidualBlock(width) for _ in range(n_blocks)) for width in widths
    )
