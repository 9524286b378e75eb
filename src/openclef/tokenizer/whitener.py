"""Whitened patches: what a token's stretch of the spectrogram says, in order of signal-to-noise.

Findings and diseases live in directions of little variance (docs/encoder.md): what predicts or
reads plain decibels spends itself on level and slope. Here each direction has unit variance, and
those that last longer than a token come first.

Axis letters: B batch, R region, C EEG channel or plane of them (`regions.py`), F frequency, T
frame, P direction kept, N numbers of a patch (planes of the region x bands of the row); a
prime (Fp, Tp) is the token grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import scipy.linalg
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from openclef.errors import OpenclefError
from openclef.tokenizer.bands import to_bands
from openclef.tokenizer.regions import hidden_planes, membership, to_planes
from openclef.tokenizer.vqgan import TokenizerConfig, hidden_frames, scale
from openclef.training import checkpoint
from openclef.training.loop import Batch

CLIP_SD = 10.0  # a loose electrode lies hundreds of deviations out
# Added to the noise, as a share of its mean variance: few windows leave directions without any, and
# so do channels that no recording has.
_RIDGE = 1e-4
_LEAST_RATIO = 1e-6


class Whitener(nn.Module):
    """Projections of patches, one a region and frequency row; `fit_whitener` makes it.

    Attributes
    ----------
    snr : Tensor, shape (R, Fp, P)
        Signal-to-noise of each direction, in falling order: total variance over that of what
        changes from one token to the next, less 1.
    """

    snr: Tensor

    def __init__(self, config: TokenizerConfig, patch_dim: int) -> None:
        super().__init__()
        self.config = config
        n_regions, n_rows, _ = config.grid
        n_bins = config.n_bands // n_rows
        planes = membership(config.regions)
        self.members = [torch.nonzero(region).flatten().tolist() for region in planes]
        fewest = n_bins * min(len(members) for members in self.members)
        if patch_dim > fewest:
            raise OpenclefError(
                f"{patch_dim} directions of a patch of {fewest} numbers; give {fewest} at most"
            )
        for r, members in enumerate(self.members):
            n = n_bins * len(members)
            self.register_buffer(f"mean_{r}", torch.zeros(n_rows, n))
            self.register_buffer(f"projection_{r}", torch.zeros(n_rows, n, patch_dim))
        self.register_buffer("snr", torch.zeros(n_regions, n_rows, patch_dim))

    def forward(self, x_BCFT: Tensor, channel_mask: Tensor, time_mask: Tensor) -> Tensor:
        """Scaled spectrograms (see `scale`) -> `[B, R, Fp, Tp, P]`, 0 where tokens are hidden.

        channel_mask `[B, 19]`, time_mask `[B, T]`: True where hidden. A hidden plane counts as the
        train patients' mean; hidden frames are left out of a token's.
        """
        projected = [
            torch.einsum("bftn,fnp->bftp", z, self.get_buffer(f"projection_{r}"))
            for r, (z, _) in enumerate(self.centred(x_BCFT, channel_mask, time_mask))
        ]
        return torch.stack(projected, 1).clamp(-CLIP_SD, CLIP_SD)

    def centred(
        self, x_BCFT: Tensor, channel_mask: Tensor, time_mask: Tensor
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Of each region: patches less their mean `[B, Fp, Tp, N]`, 0 where hidden, and which
        columns are visible `[B, Tp]`.
        """
        for r, (patches, known, seen) in enumerate(self.patches(x_BCFT, channel_mask, time_mask)):
            z = patches - self.get_buffer(f"mean_{r}")[:, None]
            yield z * (known[:, None, None] & seen[:, None, :, None]), seen

    def patches(
        self, x_BCFT: Tensor, channel_mask: Tensor, time_mask: Tensor
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Of each region: means over visible frames `[B, Fp, Tp, N]`, which of their numbers are
        of planes that are there `[B, N]`, and which columns are visible `[B, Tp]`.
        """
        _, n_rows, _ = self.config.grid
        n_columns = time_mask.shape[-1] // self.config.frames_per_token
        shown_BT = ~time_mask
        hidden = channel_mask[:, :, None, None] | time_mask[:, None, None]
        x = to_bands(torch.where(hidden, 0.0, x_BCFT), self.config.frequency_scale)
        x = to_planes(x, channel_mask, self.config.regions)
        x = x.unflatten(-1, (n_columns, -1)).sum(-1)  # type: ignore[no-untyped-call]
        n_frames = shown_BT.unflatten(-1, (n_columns, -1)).sum(-1)  # type: ignore[no-untyped-call]
        x = (x / n_frames.clamp(min=1)[:, None, None]).unflatten(2, (n_rows, -1))  # B C Fp f Tp
        n_bins = x.shape[3]
        visible = ~hidden_frames(time_mask, n_columns)
        shown_BC = ~hidden_planes(channel_mask, self.config.regions)
        for members in self.members:
            there = shown_BC[:, members]
            patches = x[:, members].permute(0, 2, 4, 1, 3).flatten(3)
            known = there.repeat_interleave(n_bins, 1)
            yield patches, known, visible & there.any(-1, keepdim=True)


@torch.no_grad()
def fit_whitener(
    config: TokenizerConfig, windows: Callable[[], Iterable[Batch]], *, patch_dim: int
) -> Whitener:
    """Fit on windows (of train patients), which are read twice: for means, then for covariances.

    Parameters
    ----------
    config : of the tokenizer whose grid and regions are used.
    windows : gives batches as `tokenizer.train.stack` makes them, the same each time.
    patch_dim : directions to keep, those of highest signal-to-noise.

    Returns
    -------
    Whitener whose outputs have the identity as covariance over these windows' visible tokens.
    """
    whitener = Whitener(config, patch_dim)
    n_regions, n_rows, _ = config.grid
    widths = [whitener.get_buffer(f"mean_{r}").shape[1] for r in range(n_regions)]
    sums = [np.zeros((n_rows, n)) for n in widths]
    counts = [np.zeros(n) for n in widths]
    for batch in windows():
        for r, (patches, known, seen) in enumerate(whitener.patches(*_inputs(batch))):
            used = known[:, None] & seen[..., None]  # B Tp N
            sums[r] += (patches * used[:, None]).sum((0, 2), dtype=torch.float64).numpy()
            counts[r] += used.sum((0, 1)).numpy()
    for r in range(n_regions):
        mean = sums[r] / np.maximum(counts[r], 1)
        whitener.get_buffer(f"mean_{r}").copy_(torch.from_numpy(mean))
    total = [np.zeros((n_rows, n, n)) for n in widths]
    noise = [np.zeros((n_rows, n, n)) for n in widths]
    n_tokens, n_pairs = np.zeros(n_regions), np.zeros(n_regions)
    for batch in windows():
        for r, (z, seen) in enumerate(whitener.centred(*_inputs(batch))):
            pairs = seen[:, 1:] & seen[:, :-1]
            steps = (z[:, :, 1:] - z[:, :, :-1]) * pairs[:, None, :, None]
            total[r] += _squares(z)
            noise[r] += _squares(steps) / 2
            n_tokens[r] += int(seen.sum())
            n_pairs[r] += int(pairs.sum())
    for r in range(n_regions):
        for row in range(n_rows):
            projection, snr = _directions(
                total[r][row] / max(n_tokens[r], 1), noise[r][row] / max(n_pairs[r], 1), patch_dim
            )
            whitener.get_buffer(f"projection_{r}")[row] = torch.from_numpy(projection)
            whitener.snr[r, row] = torch.from_numpy(snr)
    return whitener


def save_whitener(whitener: Whitener, path: Path) -> None:
    """Write it as safetensors."""
    checkpoint.save_tensors(path, whitener.state_dict())


def load_whitener(path: Path, config: TokenizerConfig) -> Whitener:
    """Read it; config: of the tokenizer. Raises ArtefactError if it is of another grid."""
    tensors, _ = checkpoint.load_tensors(path)
    whitener = Whitener(config, tensors["snr"].shape[-1])
    checkpoint.load_weights(whitener, tensors, source=str(path))
    return whitener.eval()


def _inputs(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    return scale(batch["power_db"]), batch["channel_mask"], batch["time_mask"]


def _squares(z_BFTN: Tensor) -> NDArray[np.float64]:
    """Sums of products over batch and time, `[Fp, N, N]`."""
    flat = z_BFTN.transpose(0, 1).flatten(1, 2).double()
    products: NDArray[np.float64] = (flat.transpose(1, 2) @ flat).numpy()
    return products


def _directions(
    total: NDArray[np.float64], noise: NDArray[np.float64], n: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The n directions `[N, n]` of largest total over noise variance, each of unit total variance.

    Those without variance (numbers that never vary) are zero, and come last.
    """
    ridge = _RIDGE * max(np.trace(noise) / len(noise), np.finfo(np.float64).tiny)
    ratios, vectors = scipy.linalg.eigh(total, noise + ridge * np.eye(len(noise)))
    ratios, vectors = ratios[::-1][:n], vectors[:, ::-1][:, :n]
    varies = ratios > _LEAST_RATIO
    deviations = np.sqrt(np.where(varies, ratios, 1.0))
    return np.where(varies, vectors / deviations, 0.0), np.maximum(ratios - 1, -1.0)
