"""How much of the spectrograms the tokens keep: error, explained variance, use of the codes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor

from openclef.cohort.store import FREQ_STEP_HZ, Cohort
from openclef.tokenizer.objective import split_channels
from openclef.tokenizer.train import stack
from openclef.tokenizer.vqgan import CLAMP_DB, Vqgan, scale
from openclef.training.loop import best_device
from openclef.types import FloatArray, Spectrogram

BATCH_SIZE = 4
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Decoded:
    """A window, what its tokens stand for (`[19, 128, T]`, dB) and the tokens' ids
    `[R, Fp, Tp, Q]`, hidden `[R, Tp]`."""

    row: int
    original: Spectrogram
    power_db: FloatArray
    ids: NDArray[np.int64]
    hidden: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Fidelity:
    """Sums over the visible cells of many windows; properties say what they mean.

    All are `[19, F]`. n: cells. absolute_db, squared_db: of the error. Variances are about what
    the tokenizer knows without a token, the train patients' mean of each channel and frequency:
    of the across-channel mean (`mean_*`, the same in every row) and of the residuals from it.
    code_counts `[Q, n_codes]`: of visible tokens.
    """

    n_windows: int
    n: Floats
    absolute_db: Floats
    squared_db: Floats
    mean_error: Floats
    mean_variance: Floats
    residual_error: Floats
    residual_variance: Floats
    code_counts: NDArray[np.int64]

    @property
    def mae_db(self) -> Floats:
        """Mean absolute error of each channel and frequency, `[19, F]`, dB."""
        return self.absolute_db / np.maximum(self.n, 1)

    @property
    def mean_r2(self) -> float:
        """Explained variance of the across-channel mean."""
        return 1 - float(self.mean_error.sum() / self.mean_variance.sum())

    @property
    def residual_r2(self) -> float:
        """Explained variance of the channels' residuals from their mean."""
        return 1 - float(self.residual_error.sum() / self.residual_variance.sum())

    @property
    def n_tokens(self) -> int:
        return int(self.code_counts[0].sum())

    @property
    def usage(self) -> list[float]:
        """Share of the codes that occur at all, for each code of a token."""
        return [float(share) for share in (self.code_counts > 0).mean(1)]

    @property
    def perplexity(self) -> list[float]:
        """exp(entropy) of the codes' frequencies, for each code of a token."""
        shares = self.code_counts / np.maximum(self.code_counts.sum(1, keepdims=True), 1)
        logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
        return [float(x) for x in np.exp(-(shares * logs).sum(1))]

    def r2_by_band(
        self, bands_hz: dict[str, tuple[float, float]]
    ) -> dict[str, tuple[float, float]]:
        """(mean, residual) R2 of each band of frequencies [low, high)."""
        freqs_hz = np.arange(self.n.shape[1]) * FREQ_STEP_HZ
        found = {}
        for name, (low, high) in bands_hz.items():
            band = (freqs_hz >= low) & (freqs_hz < high)
            found[name] = (
                1 - float(self.mean_error[:, band].sum() / self.mean_variance[:, band].sum()),
                1
                - float(self.residual_error[:, band].sum() / self.residual_variance[:, band].sum()),
            )
        return found


@torch.no_grad()
def decode_windows(
    tokenizer: Vqgan, cohort: Cohort, rows: NDArray[np.int64], *, label: str = "decoding tokens"
) -> Iterator[Decoded]:
    """Tokenize windows of a cohort and decode them again, in batches."""
    device = best_device()
    tokenizer.to(device).eval()
    starts = range(0, len(rows), BATCH_SIZE)
    for start in track(starts, label):
        part = rows[start : start + BATCH_SIZE]
        windows = [cohort.spectrogram(row) for row in part]
        batch = {name: value.to(device) for name, value in stack(windows).items()}
        ids, hidden = tokenizer.tokenize(
            scale(batch["power_db"]), batch["channel_mask"], batch["time_mask"]
        )
        power_db = tokenizer.reconstruct(ids, hidden)
        for i, (row, window) in enumerate(zip(part, windows, strict=True)):
            yield Decoded(
                int(row), window, power_db[i].cpu().numpy(), ids[i].cpu().numpy(),
                hidden[i].cpu().numpy(),
            )  # fmt: skip


def measure(tokenizer: Vqgan, windows: Iterator[Decoded]) -> Fidelity:
    """Add up what `decode_windows` gives; needs at least one window."""
    n_codes = tokenizer.config.quantiser.n_codes
    expected_db = tokenizer.spectrum.mean.cpu() * CLAMP_DB
    sums: dict[str, Tensor] = {}
    counts = np.zeros((tokenizer.config.quantiser.n_quantisers, n_codes), np.int64)
    n_windows = 0
    for window in windows:
        n_windows += 1
        for name, value in _sums(window, expected_db).items():
            sums[name] = sums.get(name, torch.zeros(())) + value.double()
        seen = np.broadcast_to(~window.hidden[:, None, :], window.ids.shape[:-1])
        for q in range(len(counts)):
            counts[q] += np.bincount(window.ids[..., q][seen], minlength=n_codes)
    if not n_windows:
        raise ValueError("no window to measure")
    return Fidelity(
        n_windows=n_windows, code_counts=counts,
        **{name: value.numpy() for name, value in sums.items()},
    )  # fmt: skip


def _sums(window: Decoded, expected_db: Tensor) -> dict[str, Tensor]:
    shown_C = torch.from_numpy(~window.original.channel_mask)[None, :, None, None].float()
    shown = shown_C * torch.from_numpy(~window.original.time_mask).float()
    x = torch.from_numpy(window.original.power_db)[None].clamp(-CLAMP_DB, CLAMP_DB)
    error = torch.where(shown > 0, torch.from_numpy(window.power_db)[None] - x, 0.0)
    spread = torch.where(shown > 0, x - expected_db, 0.0)
    error_parts, spread_parts = split_channels(error, shown_C), split_channels(spread, shown_C)

    def total(values: Tensor) -> Tensor:
        return (values * shown).sum((0, 3))

    return {
        "n": total(torch.ones_like(x)),
        "absolute_db": total(error.abs()),
        "squared_db": total(error.square()),
        "mean_error": total(error_parts.mean.square()),
        "mean_variance": total(spread_parts.mean.square()),
        "residual_error": total(error_parts.residual.square()),
        "residual_variance": total(spread_parts.residual.square()),
    }
