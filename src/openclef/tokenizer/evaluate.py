"""How much of the spectrograms the tokens keep: error, explained variance, use of the codes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor

from openclef.artefact import atomic
from openclef.cohort.shards import N_FREQS
from openclef.cohort.store import Cohort
from openclef.errors import OpenclefError
from openclef.tokenizer.objective import split_channels
from openclef.tokenizer.train import check_finite, read_finite, stack
from openclef.tokenizer.vqgan import CLAMP_DB, Vqgan, scale
from openclef.training.allocator import keep_freed_memory
from openclef.training.loop import best_device
from openclef.types import CHANNELS, FloatArray, Spectrogram

BATCH_SIZE = 4
Floats = NDArray[np.float64]
# Sums of single windows, in the order of `Fidelity.by_window`.
_OF_WINDOW = ("mean_error", "mean_variance", "residual_error", "residual_variance")


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

    Those of cells are `[19, F]`: n counts them; absolute_db, squared_db are of the error. The
    others are of squares, of the across-channel mean (`mean_*`, the same in every row) and of the
    residuals from it: `*_error`; `*_variance`, of the original about a mean spectrum that was
    given; `*_decoded`, of what is decoded about the same. Only with the same mean spectrum can R2
    of two tokenizers be compared, see `train_mean_db`. R2 and correlation are NaN where nothing
    varies: the residuals, if no window shows two channels.

    code_counts `[Q, n_codes]`: of visible tokens. rows `[N]`: of the windows in their cohort.
    by_window `[N, 4]`: mean_error, mean_variance, residual_error, residual_variance of each.
    """

    n: Floats
    absolute_db: Floats
    squared_db: Floats
    mean_error: Floats
    mean_variance: Floats
    mean_decoded: Floats
    residual_error: Floats
    residual_variance: Floats
    residual_decoded: Floats
    code_counts: NDArray[np.int64]
    rows: NDArray[np.int64]
    by_window: Floats

    @property
    def n_windows(self) -> int:
        return len(self.rows)

    @property
    def mae_db(self) -> Floats:
        """Mean absolute error of each channel and frequency, `[19, F]`, dB."""
        return self.absolute_db / np.maximum(self.n, 1)

    @property
    def mean_r2(self) -> float:
        """Explained variance of the across-channel mean."""
        return _explained(self.mean_error, self.mean_variance)

    @property
    def residual_r2(self) -> float:
        """Explained variance of the channels' residuals from their mean."""
        return _explained(self.residual_error, self.residual_variance)

    @property
    def mean_correlation(self) -> float:
        """Of decoded and original across-channel mean, both about the mean spectrum."""
        return _correlation(self.mean_error, self.mean_variance, self.mean_decoded)

    @property
    def residual_correlation(self) -> float:
        """The same of the channels' residuals."""
        return _correlation(self.residual_error, self.residual_variance, self.residual_decoded)

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

    def __add__(self, other: Fidelity) -> Fidelity:
        """Of the windows of both: sums are added, what is of single windows is put in a row."""
        pairs = {f.name: (getattr(self, f.name), getattr(other, f.name)) for f in fields(self)}
        return Fidelity(
            **{
                name: np.concatenate(pair) if name in ("rows", "by_window") else pair[0] + pair[1]
                for name, pair in pairs.items()
            }
        )

    def save(self, path: Path) -> None:
        """Write all of it as `*.npz`."""
        with atomic(path) as temporary, temporary.open("wb") as handle:
            np.savez_compressed(handle, **{f.name: getattr(self, f.name) for f in fields(self)})


def load_fidelity(path: Path) -> Fidelity:
    """Read what `Fidelity.save` wrote."""
    with np.load(path, allow_pickle=False) as arrays:
        return Fidelity(**arrays)


def train_mean_db(cohort: Cohort, *, n_windows: int = 500, seed: int = 0) -> FloatArray:
    """Mean spectrum of a cohort's train patients: what R2 of every tokenizer of it is about.

    A tokenizer's own (`Vqgan.spectrum`) is a moving average that differs from one to the next.

    Parameters
    ----------
    cohort : whose train windows to read.
    n_windows : drawn at random, all if there are fewer.
    seed : of the draw.

    Returns
    -------
    `[19, 128]`, dB: mean of the visible cells, clamped as the tokenizer clamps; 0 of a channel
    that is visible in none of the windows.

    Raises
    ------
    OpenclefError
        If a visible value is NaN or infinite.
    """
    rows = cohort.rows("train")
    chosen = np.random.default_rng(seed).choice(rows, min(n_windows, len(rows)), replace=False)
    total_db, n_frames = np.zeros((len(CHANNELS), N_FREQS)), np.zeros((len(CHANNELS), 1))
    for row in track(np.sort(chosen), "mean spectrum"):
        window = read_finite(cohort, row)
        shown = ~(window.channel_mask[:, None, None] | window.time_mask)
        power_db = np.where(shown, window.power_db.clip(-CLAMP_DB, CLAMP_DB), np.float32(0))
        total_db += power_db.sum(-1, dtype=np.float64)
        n_frames += shown.sum(-1)
    mean_db: FloatArray = (total_db / np.maximum(n_frames, 1)).astype(np.float32)
    return mean_db


@torch.no_grad()
def decode_windows(
    tokenizer: Vqgan,
    cohort: Cohort,
    rows: NDArray[np.int64],
    *,
    label: str = "decoding tokens",
    skip_not_finite: bool = False,
) -> Iterator[Decoded]:
    """Tokenize windows of a cohort and decode them again, in batches.

    A window with a visible value that is NaN or infinite is left out if `skip_not_finite`; else
    OpenclefError is raised, naming its session.
    """
    read = _read_or_none if skip_not_finite else read_finite
    keep_freed_memory()
    device = best_device()
    tokenizer.to(device).eval()
    starts = range(0, len(rows), BATCH_SIZE)
    for start in track(starts, label):
        found = [(row, read(cohort, row)) for row in rows[start : start + BATCH_SIZE]]
        windows = [(row, window) for row, window in found if window is not None]
        if not windows:
            continue
        stacked = stack([window for _, window in windows])
        batch = {name: value.to(device) for name, value in stacked.items()}
        ids, hidden = tokenizer.tokenize(
            scale(batch["power_db"]), batch["channel_mask"], batch["time_mask"]
        )
        power_db = tokenizer.reconstruct(ids, hidden)
        for i, (row, window) in enumerate(windows):
            yield Decoded(
                int(row), window, power_db[i].cpu().numpy(), ids[i].cpu().numpy(),
                hidden[i].cpu().numpy(),
            )  # fmt: skip


def _read_or_none(cohort: Cohort, row: int) -> Spectrogram | None:
    """A window, unless it holds a visible value that is not finite."""
    window = cohort.spectrogram(row)
    try:
        check_finite(window)
    except OpenclefError:
        return None
    return window


class FidelityMeter:
    """Adds up what `decode_windows` gives, window by window.

    mean_db: spectrum `[19, F]` about which variance is taken, in dB; to compare tokenizers, that
    of `train_mean_db` for all of them.
    """

    def __init__(self, tokenizer: Vqgan, *, mean_db: FloatArray) -> None:
        quantiser = tokenizer.config.quantiser
        self._n_quantisers, self._n_codes = quantiser.n_quantisers, quantiser.n_codes
        self._mean_db = torch.from_numpy(mean_db)[..., None]
        self._total: Fidelity | None = None

    def add(self, window: Decoded) -> Fidelity:
        """Take in one window; returns what is of it alone."""
        sums = {
            name: value.numpy().astype(np.float64)
            for name, value in _sums(window, self._mean_db).items()
        }
        seen = np.broadcast_to(~window.hidden[:, None, :], window.ids.shape[:-1])
        one = Fidelity(
            **sums,
            code_counts=np.stack(
                [
                    np.bincount(window.ids[..., q][seen], minlength=self._n_codes)
                    for q in range(self._n_quantisers)
                ]
            ),
            rows=np.array([window.row]),
            by_window=np.array([[sums[name].sum() for name in _OF_WINDOW]]),
        )
        self._total = one if self._total is None else self._total + one
        return one

    def result(self) -> Fidelity:
        """Of all windows so far; raises ValueError if there was none."""
        if self._total is None:
            raise ValueError("no window to measure")
        return self._total


def measure(tokenizer: Vqgan, windows: Iterable[Decoded], *, mean_db: FloatArray) -> Fidelity:
    """Add up what `decode_windows` gives; raises ValueError if that is no window.

    mean_db: as for `FidelityMeter`.
    """
    meter = FidelityMeter(tokenizer, mean_db=mean_db)
    for window in windows:
        meter.add(window)
    return meter.result()


def _sums(window: Decoded, mean_db: Tensor) -> dict[str, Tensor]:
    shown_C = torch.from_numpy(~window.original.channel_mask)[None, :, None, None].float()
    shown = shown_C * torch.from_numpy(~window.original.time_mask).float()
    x = torch.from_numpy(window.original.power_db)[None].clamp(-CLAMP_DB, CLAMP_DB)
    error = torch.where(shown > 0, torch.from_numpy(window.power_db)[None] - x, 0.0)
    spread = torch.where(shown > 0, x - mean_db, 0.0)
    error_parts, spread_parts = split_channels(error, shown_C), split_channels(spread, shown_C)

    # All is zero where hidden, so no sum over frames needs a mask.
    sums = {
        "n": shown.sum((0, 3)).expand(x.shape[1:3]),
        "absolute_db": torch.linalg.vector_norm(error, ord=1, dim=(0, 3)),
        "squared_db": _squares(error),
    }
    for name in ("mean", "residual"):
        of_error, of_spread = getattr(error_parts, name), getattr(spread_parts, name)
        sums[f"{name}_error"] = _squares(of_error)
        sums[f"{name}_variance"] = _squares(of_spread)
        sums[f"{name}_decoded"] = _squares(of_spread + of_error)
    for name in ("mean_error", "mean_variance", "mean_decoded"):  # the same in every channel
        sums[name] = sums[name] * shown_C[0, :, :, 0]
    return sums


def _squares(x_BCFT: Tensor) -> Tensor:
    """Sums over windows and frames, `[C, F]`."""
    return torch.linalg.vector_norm(x_BCFT, dim=(0, 3)).square()


def _explained(error: Floats, variance: Floats) -> float:
    """1 - error / variance; NaN without variance."""
    total = float(variance.sum())
    return 1 - float(error.sum()) / total if total > 0 else math.nan


def _correlation(error: Floats, variance: Floats, decoded: Floats) -> float:
    """Of x and y from sums of (y - x)^2, x^2 and y^2; NaN if x is 0 throughout."""
    xx, yy = variance.sum(), decoded.sum()
    if xx == 0:
        return math.nan
    return float((xx + yy - error.sum()) / 2 / np.sqrt(np.maximum(xx * yy, 1e-12)))
