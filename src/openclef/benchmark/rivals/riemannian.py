"""Riemannian tangent space: how channels vary together in each EEG band, on the waveform itself.

The standard of brain-computer interfaces (Barachant et al. 2012), by pyriemann: one covariance
matrix a band and window, seen from the Riemannian mean of the probe patients. Unlike the spectral
baselines it knows of phase and of the relations between channels; like them, nothing of time.

- Bands: those of `handcrafted.band_power`.
- Reference: covariances are of contrasts, 18 of the 19 channels' 19 dimensions, those orthogonal to
  a signal that all channels share. So recordings against the ear and against their own average are
  comparable, and none is singular.
- Hidden frames are left out. Hidden channels are filled in by what the visible ones lead to expect
  (`complete`).

The mean and what fills in are fitted on probe patients, without labels. (Where a benchmark
cross-validates, for want of held-out patients, its reported patients include those.)

Axis letters: W window, B band, C channel, E contrast (18 of 19 channels), S sample, T frame.
"""

from __future__ import annotations

import importlib.util
import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import scipy.fft
import scipy.linalg
from numpy.typing import NDArray
from rich.progress import track

from openclef import artefact
from openclef.artefact import Artefact, atomic
from openclef.benchmark.rivals.covariances import (
    CovarianceJob,
    covariance_path,
    measure_session,
)
from openclef.benchmark.rivals.handcrafted import BANDS_HZ
from openclef.cohort.embeddings import TABLE, begin_embeddings, write_embeddings
from openclef.cohort.engine import Engine, LocalEngine, WorkerDied
from openclef.cohort.ingest import INDEX
from openclef.cohort.layouts import Source
from openclef.cohort.session import (
    finish_failed,
    part_path,
    read_part,
)
from openclef.cohort.store import Cohort
from openclef.errors import OpenclefError, RecordingError
from openclef.types import CHANNELS, BoolArray, FloatArray

Floats = NDArray[np.float64]

MODEL = "riemannian"
FAILURES = "failures.parquet"
_MOST_ROUNDS = 100
_ROUNDS_TOLERANCE = 1e-4
_NOTHING_VISIBLE = "no frame, or fewer than two channels, visible in a band"


def embed_riemannian(
    cohort: Cohort,
    out: Path,
    *,
    root: Path | None = None,
    engine: Engine | None = None,
    progress: bool = True,
) -> Artefact:
    """Write the tangent vectors of a cohort's windows as an embeddings artefact, without train.

    Reads the recordings again; each is put aside when done, so that an interrupted run goes on from
    there. A recording that cannot be read any more, and a window without two visible channels, is a
    row of NaN, and told in `failures.parquet`: `session_id, window, error`.

    Parameters
    ----------
    cohort : Cohort
        Complete, with the index of its data set.
    out : Path
        Folder of the artefact.
    root : Path, optional
        Of the data set that the cohort was ingested from, if it has moved since.
    engine : Engine, optional
        Who reads; of a simulated hospital without recordings the one that makes them
        (`recipes.simulated.open_data_set`). Default: two processes.
    progress : bool
        Show a bar.

    Returns
    -------
    Artefact
        Of kind "embeddings", complete: model "riemannian", vectors of 4 x 171 numbers, float32.

    Raises
    ------
    OpenclefError
        Without pyriemann, without the data set, or if no probe patient's recording can be used:
        then nothing that was read is kept, and `engine` or `root` is likely wrong.
    ArtefactError
        If `out` holds something else.
    StorageError, SourceError
        `out` cannot be written, or the data set not read just now; what was read is kept.
    """
    if importlib.util.find_spec("pyriemann") is None:
        raise OpenclefError("riemannian needs pyriemann: pip install 'openclef[rivals]'")
    source = Source.read_index(cohort.folder / INDEX, root=root)
    if not source.root.is_dir():
        raise OpenclefError(f"{source.root}: no such folder; give the data set's root")
    stage = begin_embeddings(out, model=MODEL, inputs={"cohort": cohort.hash})
    if stage.is_complete:
        shutil.rmtree(out / "parts", ignore_errors=True)  # if killed just after the manifest
        return stage
    artefact.remove_stale(out)
    sessions = cohort.sessions.filter(pl.col("split") != "train")
    windows = cohort.windows.join(
        sessions.select("session_id", "subject_id", "split"), on="session_id"
    ).sort("row")
    with engine or LocalEngine(n_workers=2) as workers:
        _measure_all(stage, cohort, source, windows, workers, progress=progress)
    covariance_WBCC, errors = _collect(stage, windows)
    channel_mask_WC = _stacked(windows["channel_mask"])
    known = np.array([error is None for error in errors])
    probe = known & (windows["split"] == "probe").to_numpy()
    if not probe.any():
        shutil.rmtree(out / "parts")
        first = next((error for error in errors if error), "it has no probe patients")
        raise OpenclefError(f"{cohort.folder}: no probe patient can be used; the first: {first}")
    reference = fit_reference(
        covariance_WBCC[probe], channel_mask_WC[probe], windows["subject_id"].to_numpy()[probe]
    )
    n_features = len(BANDS_HZ) * math.comb(len(CHANNELS), 2)
    vectors = np.full((len(known), n_features), np.nan, np.float32)
    vectors[known] = tangent_vectors(covariance_WBCC[known], channel_mask_WC[known], reference)
    _write(stage, windows, vectors, errors)
    return stage


def _measure_all(
    stage: Artefact,
    cohort: Cohort,
    source: Source,
    windows: pl.DataFrame,
    engine: Engine,
    *,
    progress: bool,
) -> None:
    """Leave a part of every session that has none yet."""
    folder = stage.folder.absolute()
    done = {path.stem for path in (folder / "parts").glob("*.*")}
    waiting = cohort.sessions.filter(
        pl.col("session_id").is_in(windows["session_id"].unique().to_list())
        & ~pl.col("session_id").is_in(list(done))
    )
    jobs = _jobs(folder, cohort, source, waiting, windows)
    measured = engine.map(measure_session, jobs)
    for job, result in track(measured, "covariances", total=waiting.height, disable=not progress):
        if isinstance(result, WorkerDied):
            finish_failed(job, RecordingError("its reader crashed the process, twice"))


def _jobs(
    folder: Path, cohort: Cohort, source: Source, sessions: pl.DataFrame, windows: pl.DataFrame
) -> Iterator[CovarianceJob]:
    root = source.root.absolute()
    sizes = {
        session.path.relative_to(source.root).as_posix(): session.size_bytes
        for session in source.sessions
    }
    of_session = windows.partition_by("session_id", as_dict=True)
    for name, path, duration_s, quality in sessions.select(
        "session_id", "path", "duration_s", "quality"
    ).iter_rows():
        own = of_session[name,]
        yield CovarianceJob(
            session_id=name,
            root=root,
            path=root / path,
            size_bytes=sizes.get(path),
            folder=folder,
            line_hz=json.loads(quality)["line_hz_removed"],
            unit=cohort.artefact.config.get("unit"),
            windows="all",
            seed=0,
            crop_s=duration_s,
            date_shift=timedelta(),
            starts_s=tuple(own["start_s"]),
            channel_mask=_stacked(own["channel_mask"]),
            time_mask=_stacked(own["time_mask"]),
        )


def _stacked(masks: pl.Series) -> BoolArray:
    """Lists of one length as `[W, N]`."""
    return np.array(masks.to_list(), np.bool_)


@dataclass(frozen=True, eq=False)
class Reference:
    """Where tangent vectors are taken, `[B, 18, 18]` both, of contrasts of all 19 channels.

    prior: mean covariance of sessions scaled to a mean variance of one; fills in channels.
    mean: Riemannian mean, uV^2.
    """

    prior: Floats
    mean: Floats


def fit_reference(
    covariance_WBCC: Floats, channel_mask_WC: BoolArray, subject_id: NDArray[np.int64]
) -> Reference:
    """Fit on the windows of some patients, each of whom counts alike.

    The prior is found by expectation-maximisation, each session with a level of its own: fill in by
    the prior, average, again. Directions that nobody's channels show stay as isotropic as they
    began.

    Parameters
    ----------
    covariance_WBCC : array, shape (W, B, 19, 19)
        As `band_covariances` gives them, no window unknown.
    channel_mask_WC : array, shape (W, 19)
        True where hidden.
    subject_id : array, shape (W,)
    """
    from pyriemann.geometry.mean import mean_riemann

    _, number, n_windows = np.unique(subject_id, return_inverse=True, return_counts=True)
    weight_W = 1 / n_windows[number] / len(n_windows)
    n_contrasts = len(CHANNELS) - 1
    prior_BEE = np.tile(np.eye(n_contrasts), (covariance_WBCC.shape[1], 1, 1))
    for _ in range(_MOST_ROUNDS):
        filled_WBEE = complete(covariance_WBCC, channel_mask_WC, prior_BEE)
        level_WB = np.trace(filled_WBEE, axis1=-2, axis2=-1) / n_contrasts
        earlier = prior_BEE
        prior_BEE = np.einsum("w,wbef->bef", weight_W, filled_WBEE / level_WB[..., None, None])
        if np.linalg.norm(prior_BEE - earlier) <= _ROUNDS_TOLERANCE * np.linalg.norm(earlier):
            break
    filled_WBEE = complete(covariance_WBCC, channel_mask_WC, prior_BEE)
    means = [
        mean_riemann(filled_WBEE[:, band], sample_weight=weight_W)
        for band in range(filled_WBEE.shape[1])
    ]
    return Reference(prior_BEE, np.stack(means))


def complete(covariance_WBCC: Floats, channel_mask_WC: BoolArray, prior_BEE: Floats) -> Floats:
    """Covariances of the 18 contrasts of all channels, `[W, B, 18, 18]`, positive definite.

    Where channels are hidden: the expected covariance given that of the visible ones, of signals
    that are normal with the prior's covariance at the session's own level. What is seen is kept
    as it is.
    """
    contrast_EC = scipy.linalg.helmert(len(CHANNELS))
    filled_WBEE = np.empty((len(covariance_WBCC), *prior_BEE.shape))
    patterns, number = np.unique(channel_mask_WC, axis=0, return_inverse=True)
    for i, hidden in enumerate(patterns):
        rows, visible = np.flatnonzero(number == i), np.flatnonzero(~hidden)
        own_DV = scipy.linalg.helmert(len(visible))  # D contrasts of V visible channels
        seen = covariance_WBCC[rows][..., visible[:, None], visible]
        seen_WBDD = own_DV @ seen @ own_DV.T
        # Contrasts of visible channels are some of those of all: own = these @ all, exactly.
        these_DE = own_DV @ contrast_EC[:, visible].T
        expected_BDD = these_DE @ prior_BEE @ these_DE.T
        gain_BED = np.linalg.solve(expected_BDD, these_DE @ prior_BEE).swapaxes(-1, -2)
        rest_BEE = prior_BEE - gain_BED @ these_DE @ prior_BEE
        level_WB = np.trace(seen_WBDD, axis1=-2, axis2=-1) / np.trace(
            expected_BDD, axis1=-2, axis2=-1
        )
        filled = gain_BED @ seen_WBDD @ gain_BED.swapaxes(-1, -2)
        filled += level_WB[..., None, None] * rest_BEE
        filled_WBEE[rows] = (filled + filled.swapaxes(-1, -2)) / 2
    return filled_WBEE


def tangent_vectors(
    covariance_WBCC: Floats, channel_mask_WC: BoolArray, reference: Reference
) -> Floats:
    """Coordinates of each covariance in the tangent space at the mean, band after band.

    Arguments as in `fit_reference`. Returns `[W, B * 171]`, without unit; the length of a band's
    vector is its affine-invariant distance from the mean.
    """
    from pyriemann.geometry.tangentspace import tangent_space

    filled_WBEE = complete(covariance_WBCC, channel_mask_WC, reference.prior)
    return np.concatenate(
        [
            tangent_space(filled_WBEE[:, band], mean_EE)
            for band, mean_EE in enumerate(reference.mean)
        ],
        axis=1,
    )


def _collect(stage: Artefact, windows: pl.DataFrame) -> tuple[Floats, list[str | None]]:
    """Covariances `[W, B, 19, 19]` of these windows, and why those that are NaN are."""
    n_chans = len(CHANNELS)
    covariance_WBCC = np.full((windows.height, len(BANDS_HZ), n_chans, n_chans), np.nan)
    errors: list[str | None] = [None] * windows.height
    rows = windows.select("session_id").with_row_index("at")
    for (name,), own in rows.group_by("session_id", maintain_order=True):
        path = covariance_path(stage.folder, str(name))
        if path.exists():
            covariance_WBCC[own["at"].to_numpy()] = np.load(path)
            continue
        part = read_part(part_path(stage.folder, str(name)))
        for at in own["at"]:
            errors[at] = f"{part['error']}: {part['message']}"
    visible_WC = ~_stacked(windows["channel_mask"])
    shown = np.isfinite(covariance_WBCC) | ~(
        visible_WC[:, None, :, None] & visible_WC[:, None, None]
    )
    seen = shown.all((1, 2, 3)) & (visible_WC.sum(1) > 1)
    for at in np.flatnonzero(~seen):
        errors[at] = errors[at] or _NOTHING_VISIBLE
    return covariance_WBCC, errors


def _write(
    stage: Artefact, windows: pl.DataFrame, vectors: FloatArray, errors: list[str | None]
) -> None:
    write_embeddings(
        stage.folder / TABLE,
        session_id=windows["session_id"].to_list(),
        window=windows["window"].cast(pl.Int64).to_numpy(),
        start_s=windows["start_s"].cast(pl.Float64).to_numpy(),
        vectors=vectors,
        hashes=stage.inputs,
    )
    told = windows.select("session_id", "window", error=pl.Series(errors, dtype=pl.String))
    with atomic(stage.folder / FAILURES) as temporary:
        told.filter(pl.col("error").is_not_null()).write_parquet(temporary)
    stage.finish([TABLE, FAILURES])
    shutil.rmtree(stage.folder / "parts")
