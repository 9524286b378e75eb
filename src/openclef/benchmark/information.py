"""Information kept by tokens: the same linear probe on what is decoded from them as on the EEG,
and intervals of what they explain of its variance.

`decoded_mean_sd` is to the decoded spectrogram what the baseline `spectrum_mean_sd` is to the
original: mean and deviation over time of every channel and frequency.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from openclef import artefact
from openclef.artefact import Artefact
from openclef.benchmark.rivals.handcrafted import spectrum_mean_sd
from openclef.benchmark.statistics import draw_patients, weighted_auroc
from openclef.cohort.embeddings import TABLE, begin_embeddings, write_embeddings
from openclef.cohort.store import Cohort
from openclef.tokenizer.evaluate import Decoded, decode_windows
from openclef.tokenizer.train import load_tokenizer
from openclef.types import FloatArray

DECODED = "decoded_mean_sd"
Floats = NDArray[np.float64]
_LEVELS = (0.025, 0.975)


def embed_decoded(
    cohort: Cohort,
    tokenizer_folder: Path,
    out: Path,
    *,
    model: str = DECODED,
    look: Callable[[Decoded], None] = lambda _: None,
) -> Artefact:
    """Write mean and deviation over time of the decoded spectrograms, without train patients.

    `look` is shown each decoded window, so that others need not decode it again. Raises
    OpenclefError at a window that is not finite where it is visible.
    """
    source = artefact.load(tokenizer_folder, kind="tokenizer")
    stage = begin_embeddings(
        out, model=model, inputs={"cohort": cohort.hash, "tokenizer": source.hash}
    )
    if stage.is_complete:
        return stage
    rows = cohort.rows("probe", "tuning", "held_out")
    tokenizer = load_tokenizer(tokenizer_folder)
    vectors: list[FloatArray] = []
    for window in decode_windows(tokenizer, cohort, rows):
        look(window)
        decoded = replace(window.original, power_db=window.power_db)
        vectors.append(np.stack(spectrum_mean_sd(decoded)).ravel())
    windows = cohort.windows.sort("row").filter(pl.col("row").is_in(rows))
    write_embeddings(
        stage.folder / TABLE,
        session_id=windows["session_id"].to_list(),
        window=windows["window"].cast(pl.Int64).to_numpy(),
        start_s=windows["start_s"].cast(pl.Float64).to_numpy(),
        vectors=np.stack(vectors),
        hashes=stage.inputs,
    )
    stage.finish([TABLE])
    return stage


@dataclass(frozen=True)
class Estimate:
    """A number and its interval of 95%."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Share(Estimate):
    """What a model has of a reference's AUROC above chance."""

    n_tasks: int


def share_above_chance(
    predictions: pl.DataFrame,
    patients: Mapping[str, int],
    *,
    model: str,
    reference: str,
    tasks: Sequence[str],
    n_resamples: int = 2000,
    seed: int = 0,
) -> Share:
    """(mean AUROC of `model` - .5) / (that of `reference` - .5) over `tasks`, paired.

    Parameters
    ----------
    predictions : the benchmark's table: session_id, task, model, label, score.
    patients : the patient of each session_id.
    model, reference : names in `predictions`.
    tasks : names; those without predictions are left out.
    n_resamples, seed : of the bootstrap; patients are drawn once for all tasks and both models,
        and the interval is that of 95%.

    Raises
    ------
    ValueError
        If none of the tasks has predictions.
    """
    of_task = {
        name: rows
        for (name,), rows in predictions.filter(pl.col("task").is_in(tasks)).group_by("task")
    }
    if not of_task:
        raise ValueError(f"no predictions for any of {len(tasks)} tasks")
    inside = pl.concat(of_task.values())["session_id"].unique()
    numbers = {name: i for i, name in enumerate(sorted({patients[s] for s in inside}))}
    number = {session: numbers[patients[session]] for session in inside}
    n_sessions = max(rows.height for rows in of_task.values())
    areas_RTM = np.concatenate(
        [
            np.stack(
                [
                    _areas(rows, number, counts_RP, (model, reference))
                    for _, rows in sorted(of_task.items())
                ],
                axis=1,
            )
            for counts_RP in draw_patients(
                len(numbers),
                n_columns=n_sessions,
                n_resamples=n_resamples,
                rng=np.random.default_rng(seed),
            )
        ]
    )
    means_RM = np.nanmean(areas_RTM, axis=1) - 0.5
    shares = means_RM[:, 0] / means_RM[:, 1]
    low, high = np.quantile(shares[1:], _LEVELS)
    return Share(float(shares[0]), float(low), float(high), len(of_task))


@dataclass(frozen=True, eq=False)
class R2Bootstrap:
    """Explained variance: value `[M]`, and resampled `[M, R]`, every run on the same patients."""

    value: Floats
    resampled: Floats

    def of(self, run: int) -> Estimate:
        """R2 of one run."""
        return _estimate(self.value[run], self.resampled[run])

    def difference(self, first: int, second: int) -> Estimate:
        """R2 of `first` minus that of `second`."""
        return _estimate(
            self.value[first] - self.value[second], self.resampled[first] - self.resampled[second]
        )

    def ratio(self, first: int, second: int) -> Estimate:
        """R2 of `first` over that of `second`; NaN where `second` explains nothing, and its bounds
        are NaN if so in any resample."""
        value, draws = (
            np.divide(a[first], a[second], out=np.full(np.shape(a[first]), np.nan),
                      where=a[second] > 0)
            for a in (self.value, self.resampled)
        )  # fmt: skip
        return _estimate(value, draws)


def bootstrap_r2(
    errors_MN: Floats,
    *,
    variances_MN: Floats,
    patients: NDArray[np.int64],
    n_resamples: int = 2000,
    seed: int = 0,
) -> R2Bootstrap:
    """1 - sum of errors / sum of variances of M runs, with patients drawn alike for all of them.

    Parameters
    ----------
    errors_MN, variances_MN : `[M, N]`, sums of squares of each window (`Fidelity.by_window`), the
        same windows in the same order for all runs.
    patients : `[N]`, any integer that is the same for the windows of one patient.
    n_resamples, seed : of the bootstrap; equal seeds draw the same patients.
    """
    _, patient = np.unique(patients, return_inverse=True)
    n_patients = int(patient.max()) + 1
    sums_P2M = np.zeros((n_patients, 2, len(errors_MN)))
    np.add.at(sums_P2M, patient, np.stack([errors_MN, variances_MN]).transpose(2, 0, 1))
    sums_R2M = np.concatenate(
        [
            np.tensordot(counts_RP, sums_P2M, axes=1)
            for counts_RP in draw_patients(
                n_patients,
                n_columns=n_patients,
                n_resamples=n_resamples,
                rng=np.random.default_rng(seed),
            )
        ]
    )
    errors_RM, variances_RM = sums_R2M[:, 0], sums_R2M[:, 1]
    unexplained = np.full_like(errors_RM, np.nan)
    np.divide(errors_RM, variances_RM, out=unexplained, where=variances_RM > 0)
    r2_MR = 1 - unexplained.T
    return R2Bootstrap(r2_MR[:, 0], r2_MR[:, 1:])


def _estimate(value: float | Floats, draws: Floats) -> Estimate:
    low, high = np.quantile(draws, _LEVELS)
    return Estimate(float(value), float(low), float(high))


def _areas(
    rows: pl.DataFrame,
    patients: Mapping[str, int],
    counts_RP: Floats,
    models: tuple[str, str],
) -> Floats:
    """AUROC of two models under each row of patients' weights, `[R, 2]`."""
    areas = []
    for model in models:
        of_model = rows.filter(pl.col("model") == model).sort("session_id")
        patient = np.array([patients[name] for name in of_model["session_id"]])
        areas.append(
            weighted_auroc(
                of_model["label"].to_numpy(),
                scores=of_model["score"].to_numpy(),
                weights_RN=counts_RP[:, patient],
            )
        )
    return np.stack(areas, axis=1)
