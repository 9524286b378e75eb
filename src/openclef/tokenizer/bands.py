"""Frequency bins merged into bands: narrow ones where rhythms are narrow, wide ones above.

Bins of .25 Hz are finer than the tapers' 1 Hz. A row of the grid is so many bands, whatever their
width, so merging the upper ones gives the lower ones more tokens (ours; results/).

A scale is a row of stretches (bins, width): from 0 Hz up, `bins` bins are merged `width` at a time.
Axis letters: F bin, T frame, G band.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Scale = Sequence[tuple[int, int]]


def to_bands(x: Tensor, scale: Scale) -> Tensor:
    """Means over the bins of each band: `[.., F, T]` -> `[.., G, T]`."""
    if all(width == 1 for _, width in scale):
        return x
    stretches = torch.split(x, [n_bins for n_bins, _ in scale], -2)
    merged = [
        stretch.unflatten(-2, (-1, width)).mean(-2)  # type: ignore[no-untyped-call]
        for stretch, (_, width) in zip(stretches, scale, strict=True)
    ]
    return torch.cat(merged, -2)


def from_bands(x: Tensor, scale: Scale) -> Tensor:
    """Every bin gets the value of its band: `[.., G, T]` -> `[.., F, T]`."""
    if all(width == 1 for _, width in scale):
        return x
    widths = torch.tensor(band_widths(scale), device=x.device)
    return x.repeat_interleave(widths, -2)


def band_widths(scale: Scale) -> list[int]:
    """Bins of each band, from 0 Hz up."""
    return [width for n_bins, width in scale for _ in range(n_bins // width)]
