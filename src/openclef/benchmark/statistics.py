"""AUROC with intervals and tests that respect patients: cluster bootstrap, paired, corrected.

Axis letters here: N sessions, M models, R resamples. The sessions of one patient are drawn
together, so a patient with ten recordings is not ten independent witnesses. The original reports
no significance test (paper.md, The result to beat [P]); this closes that.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.stats import false_discovery_control

Floats = NDArray[np.float64]
# Weights of so many (resample, session) pairs are held at once: 32 MB.
_CHUNK = 4_000_000


def weighted_auroc(labels: NDArray[np.int8], *, scores: Floats, weights_RN: Floats) -> Floats:
    """AUROC under each row of weights; ties count half.

    Parameters
    ----------
    labels : `[N]`, 0 or 1.
    scores : `[N]`, higher = more likely positive.
    weights_RN : `[R, N]`, not negative.

    Returns
    -------
    `[R]`, NaN where a row gives one class no weight, and where there is no session.
    """
    if not len(labels):
        return np.full(len(weights_RN), np.nan)
    order = np.argsort(scores, kind="stable")
    ranked = scores[order]
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
    weights_RN = weights_RN[:, order]
    positive_RN = weights_RN * (labels[order] == 1)
    positive = np.add.reduceat(positive_RN, starts, axis=1)
    negative = np.add.reduceat(weights_RN - positive_RN, starts, axis=1)
    below = np.cumsum(negative, axis=1) - negative / 2
    pairs = positive.sum(axis=1) * negative.sum(axis=1)
    wins = (positive * below).sum(axis=1)
    areas: Floats = np.divide(wins, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)
    return areas


def auroc(labels: NDArray[np.int8], *, scores: Floats) -> float:
    """Area under the ROC curve of `scores` `[N]` for `labels` `[N]`; NaN for a single class."""
    return float(weighted_auroc(labels, scores=scores, weights_RN=np.ones((1, len(labels))))[0])


def draw_patients(
    n_patients: int, *, n_columns: int, n_resamples: int, rng: np.random.Generator
) -> Iterator[Floats]:
    """How often each patient is drawn, `[r, n_patients]`, some resamples at a time.

    First everybody once, then `n_resamples` draws. n_columns: numbers that a resample becomes.
    """
    yield np.ones((1, n_patients))
    n_rows = max(1, _CHUNK // max(n_columns, n_patients))
    for start in range(0, n_resamples, n_rows):
        counts_RP = np.empty((min(n_rows, n_resamples - start), n_patients))
        for row in counts_RP:
            row[:] = np.bincount(rng.integers(n_patients, size=n_patients), minlength=n_patients)
        yield counts_RP


@dataclass(frozen=True, eq=False)
class AurocBootstrap:
    """value `[M]`, and resampled `[M, R]`: every model on the same resamples of patients."""

    value: Floats
    resampled: Floats

    def interval(self, model: int, *, level: float = 0.95) -> tuple[float, float]:
        """Percentile interval of one model's AUROC."""
        return _percentiles(self.resampled[model], level=level)

    def difference(
        self, first: int, second: int, *, level: float = 0.95
    ) -> tuple[float, float, float, float]:
        """AUROC of `first` minus `second`: (delta, low, high, two-sided bootstrap p)."""
        draws = self.resampled[first] - self.resampled[second]
        low, high = _percentiles(draws, level=level)
        draws = draws[~np.isnan(draws)]
        # One is added to both tails: a finite number of resamples never gives p = 0.
        tail = min((draws <= 0).sum(), (draws >= 0).sum()) + 1
        p = min(1.0, 2 * float(tail) / (len(draws) + 1))
        return float(self.value[first] - self.value[second]), low, high, p


def bootstrap_auroc(
    labels: NDArray[np.int8],
    *,
    scores_MN: Floats,
    patients: NDArray[np.int64],
    n_resamples: int,
    rng: np.random.Generator,
) -> AurocBootstrap:
    """Resample patients with replacement and recompute every model's AUROC.

    Parameters
    ----------
    labels : `[N]`, 0 or 1.
    scores_MN : `[M, N]`, one row a model.
    patients : `[N]`, any integer that is the same for the sessions of one patient.
    n_resamples : how many times to draw.
    rng : source of all randomness.
    """
    _, patient = np.unique(patients, return_inverse=True)
    n_patients = int(patient.max()) + 1
    resampled = np.empty((len(scores_MN), n_resamples))
    n_rows = max(1, _CHUNK // max(len(labels), n_patients))
    for start in range(0, n_resamples, n_rows):
        stop = min(start + n_rows, n_resamples)
        drawn = rng.integers(n_patients, size=(stop - start, n_patients))
        drawn += np.arange(stop - start)[:, None] * n_patients
        counts = np.bincount(drawn.ravel(), minlength=(stop - start) * n_patients)
        weights_RN = counts.reshape(stop - start, n_patients)[:, patient].astype(np.float64)
        for model, scores in enumerate(scores_MN):
            resampled[model, start:stop] = weighted_auroc(
                labels, scores=scores, weights_RN=weights_RN
            )
    value = np.array([auroc(labels, scores=scores) for scores in scores_MN])
    return AurocBootstrap(value, resampled)


def with_q_values(comparisons: pl.DataFrame) -> pl.DataFrame:
    """Add `q`: Benjamini-Hochberg over all rows of `comparisons` that have a `p`."""
    p = comparisons["p"].to_numpy().astype(np.float64)
    known = ~np.isnan(p)
    q: list[float | None] = [None] * len(p)
    if known.any():
        corrected = false_discovery_control(p[known], method="bh")
        for row, value in zip(np.flatnonzero(known), corrected, strict=True):
            q[row] = float(value)
    return comparisons.with_columns(pl.Series("q", q, dtype=pl.Float64))


def _percentiles(draws: Floats, *, level: float) -> tuple[float, float]:
    low, high = np.nanquantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
