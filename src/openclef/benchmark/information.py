"""Information kept by tokens: the same linear probe on what is decoded from them as on the EEG.

`decoded_mean_sd` is to the decoded spectrogram what the baseline `spectrum_mean_sd` is to the
original: mean and deviation over time of every channel and frequency.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from openclef import artefact
from openclef.artefact import Artefact
from openclef.benchmark.rivals.handcrafted import spectrum_mean_sd
from openclef.benchmark.statistics import weighted_auroc
from openclef.cohort.embeddings import TABLE, begin_embeddings, write_embeddings
from openclef.cohort.store import Cohort
from openclef.tokenizer.evaluate import decode_windows
from openclef.tokenizer.train import load_tokenizer
from openclef.types import FloatArray

DECODED = "decoded_mean_sd"


def embed_decoded(
    cohort: Cohort, tokenizer_folder: Path, out: Path, *, model: str = DECODED
) -> Artefact:
    """Write mean and deviation over time of the decoded spectrograms, without train patients."""
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
class Share:
    """What a model has of a reference's AUROC above chance, with an interval."""

    value: float
    low: float
    high: float
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
    numbers = {patient: i for i, patient in enumerate(sorted(set(patients.values())))}
    patients = {name: numbers[patient] for name, patient in patients.items()}
    n_patients = len(numbers)
    rng = np.random.default_rng(seed)
    counts_RP = np.ones((n_resamples + 1, n_patients))  # the first row: everybody once
    for row in counts_RP[1:]:
        row[:] = np.bincount(rng.integers(n_patients, size=n_patients), minlength=n_patients)
    areas_TRM = np.stack(
        [
            _areas(rows, patients, counts_RP, (model, reference))
            for _, rows in sorted(of_task.items())
        ]
    )
    means_RM = np.nanmean(areas_TRM, axis=0) - 0.5
    shares = means_RM[:, 0] / means_RM[:, 1]
    low, high = np.quantile(shares[1:], [0.025, 0.975])
    return Share(float(shares[0]), float(low), float(high), len(of_task))


def _areas(
    rows: pl.DataFrame,
    patients: Mapping[str, int],
    counts_RP: NDArray[np.float64],
    models: tuple[str, str],
) -> NDArray[np.float64]:
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
