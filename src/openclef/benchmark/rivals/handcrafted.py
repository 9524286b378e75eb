"""Baselines without a model: who the patient is, and what a mean spectrum says.

An embedding that does not beat these has learnt nothing that a ruler could not measure.

- `demographics`: age and sex, with indicators of what is missing. Race, site and setting are left
  out: they tell of the hospital rather than of the patient, and the controls are matched on two of
  them. Constant, so AUROC 0.5, if nothing is known.
- `band_power`: mean power in dB of delta, theta, alpha and beta, channel by channel.
- `spectrum_mean_sd`: mean and SD over time of every channel's power in dB at every frequency.

The two spectral ones read visible frames only, and are NaN where a channel is hidden.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
from rich.progress import track

from openclef.artefact import Artefact
from openclef.cohort.embeddings import TABLE, begin_embeddings, write_embeddings
from openclef.cohort.store import FREQ_STEP_HZ, Cohort
from openclef.types import FloatArray, Spectrogram

BANDS_HZ = {"delta": (0.5, 4.0), "theta": (4.0, 8.0), "alpha": (8.0, 13.0), "beta": (13.0, 30.0)}
# As the tokenizer clamps (paper.md, 3D multitaper spectrogram): a flat stretch is quiet, not -100.
CLAMP_DB = 40.0


def embed_handcrafted(cohort: Cohort, out: Path, *, progress: bool = True) -> list[Path]:
    """Write the three baselines of a cohort as embeddings artefacts `out/<name>/`.

    Those already complete are left as they are; the spectrograms are read once.

    Parameters
    ----------
    cohort : a complete cohort.
    out : folder of the artefacts, one a baseline.
    progress : show a bar.

    Returns
    -------
    The three folders: demographics, band_power, spectrum_mean_sd.
    """
    names = ("demographics", "band_power", "spectrum_mean_sd")
    stages = [
        begin_embeddings(out / name, model=name, inputs={"cohort": cohort.hash}) for name in names
    ]
    demographics, band_power, spectrum = stages
    if not demographics.is_complete:
        sessions = cohort.sessions.select("session_id", window=pl.lit(0), start_s=pl.lit(0.0))
        _write(demographics, sessions, demographic_vectors(cohort.sessions))
    if not (band_power.is_complete and spectrum.is_complete):
        windows = cohort.windows.sort("row")
        rows = track(windows["row"], description="band power, spectrum", disable=not progress)
        means_sds = [spectrum_mean_sd(cohort.spectrogram(row)) for row in rows]
        if not band_power.is_complete:
            bands = [band_means(mean).ravel() for mean, _ in means_sds]
            _write(band_power, windows, np.stack(bands))
        if not spectrum.is_complete:
            both = [np.stack(pair).ravel() for pair in means_sds]
            _write(spectrum, windows, np.stack(both))
    return [stage.folder for stage in stages]


def demographic_vectors(sessions: pl.DataFrame) -> FloatArray:
    """One row a session, `[N, D]`: age (or NaN), age unknown, one column a sex, sex unknown."""
    age = sessions["age"].cast(pl.Float32)
    sex = sessions["sex"].cast(pl.String)
    columns = [age.fill_null(np.nan), age.is_null()]
    columns += [sex.eq_missing(level) for level in sex.drop_nulls().unique().sort()]
    columns += [sex.is_null()]
    return np.column_stack([column.cast(pl.Float32).to_numpy() for column in columns])


def spectrum_mean_sd(spectrogram: Spectrogram) -> tuple[FloatArray, FloatArray]:
    """Mean and SD over visible frames, each `[C, F]` in dB; NaN where nothing is visible."""
    visible = ~spectrogram.time_mask
    hidden = spectrogram.channel_mask if visible.any() else np.ones_like(spectrogram.channel_mask)
    mean = np.full(spectrogram.power_db.shape[:2], np.nan, dtype=np.float32)
    sd = mean.copy()
    power_db = spectrogram.power_db[~hidden][..., visible].clip(-CLAMP_DB, CLAMP_DB)
    if power_db.size:
        mean[~hidden], sd[~hidden] = power_db.mean(axis=-1), power_db.std(axis=-1)
    return mean, sd


def band_means(mean_db: FloatArray) -> FloatArray:
    """Mean over the frequencies of each band, `[C, bands]`, from means `[C, F]`, in dB."""
    freqs_hz = np.arange(mean_db.shape[1]) * FREQ_STEP_HZ
    return np.stack(
        [
            mean_db[:, (freqs_hz >= low) & (freqs_hz < high)].mean(axis=1)
            for low, high in BANDS_HZ.values()
        ],
        axis=1,
    )


def _write(stage: Artefact, rows: pl.DataFrame, vectors: FloatArray) -> None:
    write_embeddings(
        stage.folder / TABLE,
        session_id=rows["session_id"].to_list(),
        window=rows["window"].cast(pl.Int64).to_numpy(),
        start_s=rows["start_s"].cast(pl.Float64).to_numpy(),
        vectors=vectors,
        hashes=stage.inputs,
    )
    stage.finish([TABLE])
