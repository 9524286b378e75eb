"""A saturating power law of loss against size and data, and how well a study's runs tell it.

L = E + A / N^alpha + B / D^beta as by Hoffmann et al. (2022, arXiv 2203.15556, approach 3), with N
parameters and D different train windows. It is not asked beyond the range of the runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.optimize import OptimizeResult, least_squares

from openclef.errors import OpenclefError

_FEWEST = 3  # sizes and amounts of data: a curve that saturates has no fewer points
# Residuals of the logarithm above this count by their size, not its square (Hoffmann et al.).
_HUBER = 1e-3
_LARGEST_EXPONENT = 3.0
_NEXT_TO_NOTHING = 1e-4  # of the least loss: a term that small is not there
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PowerLaw:
    """L = e + a / N^alpha + b / D^beta, nats, and how well it is known.

    intervals: of each of the five, 95%, by refitting to resampled residuals. at_bound: those that
    lie at the edge of what was allowed, so that the runs do not tell them. residuals: of the
    logarithm of each loss. parameters, windows: least and most that it was fitted to.
    """

    e: float
    a: float
    alpha: float
    b: float
    beta: float
    intervals: Mapping[str, tuple[float, float]]
    at_bound: tuple[str, ...]
    residuals: Floats
    parameters: tuple[int, int]
    windows: tuple[int, int]

    def loss(self, n_parameters: Floats, n_windows: Floats) -> Floats:
        """Nats. Raises ValueError outside of the range that was fitted."""
        for values, (low, high), what in (
            (n_parameters, self.parameters, "parameters"), (n_windows, self.windows, "windows"),
        ):  # fmt: skip
            # A curve is drawn through logarithms, which do not quite come back.
            if np.min(values) < low * (1 - 1e-9) or np.max(values) > high * (1 + 1e-9):
                raise ValueError(
                    f"{np.min(values):.0f} to {np.max(values):.0f} {what}: fitted to {low} to "
                    f"{high}; beyond that it says nothing"
                )
        found: Floats = self.e + self.a / n_parameters**self.alpha + self.b / n_windows**self.beta
        return found

    @property
    def table(self) -> pl.DataFrame:
        """`name, value, low, high, is_at_bound`."""
        names = tuple(self.intervals)
        return pl.DataFrame(
            {
                "name": names,
                "value": [getattr(self, name) for name in names],
                "low": [self.intervals[name][0] for name in names],
                "high": [self.intervals[name][1] for name in names],
                "is_at_bound": [name in self.at_bound for name in names],
            }
        )


def fit_power_law(
    n_parameters: Sequence[int],
    n_windows: Sequence[int],
    losses: Sequence[float],
    *,
    n_resamples: int = 100,
    seed: int = 0,
) -> PowerLaw:
    """Fit `PowerLaw` to runs by the Huber loss of the logarithm, from many starts.

    Parameters
    ----------
    n_parameters, n_windows, losses : one a run; losses in nats.
    n_resamples, seed : of the residuals, for the intervals.

    Raises
    ------
    OpenclefError
        With fewer than three sizes or three amounts of data: saturation cannot be told from them.
    """
    sizes, amounts = np.asarray(n_parameters, float), np.asarray(n_windows, float)
    log_losses = np.log(np.asarray(losses, float))
    if min(len(np.unique(sizes)), len(np.unique(amounts))) < _FEWEST:
        raise OpenclefError(
            f"{len(np.unique(sizes))} sizes and {len(np.unique(amounts))} amounts of data; a power "
            f"law that saturates needs {_FEWEST} of each"
        )
    # About the middle of the runs, so that a factor and its exponent can be told apart.
    middle_N, middle_D = (float(np.exp(np.log(x).mean())) for x in (sizes, amounts))
    x, y = sizes / middle_N, amounts / middle_D
    least = float(np.exp(log_losses.min()))
    edge = np.log(_NEXT_TO_NOTHING * least), np.log(10 * least)
    low = np.array([edge[0]] * 3 + [0.0, 0.0])
    high = np.array([edge[1]] * 3 + [_LARGEST_EXPONENT] * 2)

    log_x, log_y = np.log(x), np.log(y)

    def terms(theta: Floats) -> Floats:
        """Of each loss, `[3, runs]`, from the logarithms of e, a and b, alpha and beta."""
        log_terms = [theta[0] + 0 * log_x, theta[1] - theta[3] * log_x, theta[2] - theta[4] * log_y]
        found: Floats = np.exp(log_terms)
        return found

    def predicted(theta: Floats) -> Floats:
        found: Floats = np.log(terms(theta).sum(axis=0))
        return found

    def slopes(theta: Floats) -> Floats:
        e, a, b = terms(theta) / terms(theta).sum(axis=0)
        return np.stack([e, a, b, -a * log_x, -b * log_y], axis=1)

    def refit(targets: Floats, start: Floats) -> OptimizeResult:
        return least_squares(
            lambda theta: predicted(theta) - targets, start, jac=slopes, bounds=(low, high),
            loss="huber", f_scale=_HUBER, x_scale="jac", max_nfev=300,
        )  # fmt: skip

    starts = [
        np.array([*np.log(least * np.array([kept, (1 - kept) / 2, (1 - kept) / 2])), alpha, beta])
        for kept, alpha, beta in product((0.3, 0.6, 0.9), (0.1, 0.7), (0.1, 0.7))
    ]
    best = min((refit(log_losses, start) for start in starts), key=lambda one: float(one.cost)).x
    residuals = log_losses - predicted(best)

    def natural(theta: Floats) -> dict[str, float]:
        (e, a, b), (alpha, beta) = np.exp(theta[:3]), theta[3:]
        scaled = {"e": e, "a": a * middle_N**alpha, "alpha": alpha, "b": b * middle_D**beta}
        return {name: float(value) for name, value in (scaled | {"beta": beta}).items()}

    rng = np.random.default_rng(seed)
    n = len(residuals)
    # Five numbers were fitted, so residuals are smaller than the errors that they stand for.
    errors = residuals * np.sqrt(n / max(1, n - len(best)))
    draws = [
        natural(refit(predicted(best) + rng.choice(errors, n), best).x) for _ in range(n_resamples)
    ]
    values = natural(best)
    width = 1e-3 * (high - low)
    is_at_bound = (best <= low + width) | (best >= high - width)
    names = ("e", "a", "b", "alpha", "beta")
    return PowerLaw(
        **values,
        intervals={name: _interval([draw[name] for draw in draws]) for name in values},
        at_bound=tuple(name for name, at in zip(names, is_at_bound, strict=True) if at),
        residuals=residuals,
        parameters=(int(sizes.min()), int(sizes.max())),
        windows=(int(amounts.min()), int(amounts.max())),
    )


def _interval(values: Sequence[float]) -> tuple[float, float]:
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)
