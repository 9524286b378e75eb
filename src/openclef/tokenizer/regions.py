"""Parts of the montage that have tokens of their own, and the planes that each is made of.

A plane is what a convolution sees as one input channel: an EEG channel, or, in "mid_side", half of
the sum or half of the difference of a homologous pair. Left and right share nearly all of their
variance, so tokens of channels spend themselves on what is common; tokens of differences cannot
(as stereo sound is coded; docs/tokenizer.md; ours).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from openclef.types import CHANNELS, LEFT, RIGHT

Regions = Literal["all", "hemispheres", "quadrants", "mid_side"]

# Which channels the tokens of a region are made of; the midline belongs to both sides.
REGIONS: dict[Regions, tuple[tuple[str, ...], ...]] = {
    "all": (CHANNELS,),
    "hemispheres": ((*LEFT, "Fz", "Cz", "Pz"), (*RIGHT, "Fz", "Cz", "Pz")),
    "quadrants": (
        (*LEFT[:3], "Fz"),
        (*RIGHT[:3], "Fz"),
        (*LEFT[3:], "Cz", "Pz"),
        (*RIGHT[3:], "Cz", "Pz"),
    ),
    "mid_side": (CHANNELS, (*LEFT, *RIGHT)),
}
_LEFT = [CHANNELS.index(name) for name in LEFT]
_RIGHT = [CHANNELS.index(name) for name in RIGHT]


def membership(regions: Regions) -> Tensor:
    """`[R, 19]` bool: planes that each region's tokens are made of."""
    names = REGIONS[regions]
    if (
        regions == "mid_side"
    ):  # in the place of the left channel the mean, of the right one the difference
        names = (tuple(name for name in CHANNELS if name not in RIGHT), RIGHT)
    return torch.tensor([[name in region for name in CHANNELS] for region in names])


def hidden_planes(channel_mask: Tensor, regions: Regions) -> Tensor:
    """Planes `[B, 19]` without content: of a pair the mean if both channels are hidden, the
    difference if one is. channel_mask `[B, 19]`; True = hidden."""
    if regions != "mid_side":
        return channel_mask
    planes = channel_mask.clone()
    planes[:, _LEFT] = channel_mask[:, _LEFT] & channel_mask[:, _RIGHT]
    planes[:, _RIGHT] = channel_mask[:, _LEFT] | channel_mask[:, _RIGHT]
    return planes


def to_planes(x_BCFT: Tensor, channel_mask: Tensor, regions: Regions) -> Tensor:
    """Channels (0 where hidden) -> planes (0 where hidden), both `[B, 19, F, T]`."""
    if regions != "mid_side":
        return x_BCFT
    left, right = x_BCFT[:, _LEFT], x_BCFT[:, _RIGHT]
    shown = (~channel_mask).to(x_BCFT.dtype)[:, :, None, None]
    n_shown = shown[:, _LEFT] + shown[:, _RIGHT]
    planes = x_BCFT.clone()
    planes[:, _LEFT] = (left + right) / n_shown.clamp(min=1)
    planes[:, _RIGHT] = torch.where(n_shown > 1, (left - right) / 2, 0.0)
    return planes


def from_planes(planes_BCFT: Tensor, regions: Regions) -> Tensor:
    """Undo `to_planes`, for every channel: `[.., 19, F, T]`."""
    if regions != "mid_side":
        return planes_BCFT
    mean, difference = planes_BCFT[..., _LEFT, :, :], planes_BCFT[..., _RIGHT, :, :]
    x = planes_BCFT.clone()
    x[..., _LEFT, :, :] = mean + difference
    x[..., _RIGHT, :, :] = mean - difference
    return x
