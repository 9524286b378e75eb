"""Covariances of a recording's channels in each EEG band, for the Riemannian tangent space.

Axis letters: W window, B band, C channel, E contrast (18 of 19 channels), S sample, T frame.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.fft
import scipy.linalg
from numpy.typing import NDArray

from openclef.artefact import atomic
from openclef.benchmark.rivals.handcrafted import BANDS_HZ
from openclef.cohort.session import SessionJob, failing_alone, open_unchanged, reading
from openclef.errors import RecordingError
from openclef.signal import preprocess
from openclef.types import CHANNELS, SFREQ_HZ, WINDOW_S, BoolArray, FloatArray

Floats = NDArray[np.float64]

# A band passes half the power at its limits, all and nothing half of this further in and out.
EDGE_HZ = 0.5
# What such an edge rings, and as far as a frame reaches.
_PAD_S = 4
# Added to each covariance, as a share of its mean variance: bridged electrodes have no difference,
# and the logarithm of nothing would be all that is seen of the session.
_RIDGE = 1e-4


@dataclass(frozen=True, slots=True, eq=False)
class CovarianceJob(SessionJob):
    """A recording to read once more, where the cohort has windows of it.

    starts_s: of the windows. channel_mask `[W, 19]`, time_mask `[W, 1280]`: as in the cohort.
    """

    starts_s: tuple[float, ...]
    channel_mask: BoolArray
    time_mask: BoolArray


def covariance_path(folder: Path, session_id: str) -> Path:
    """Covariances `[W, B, 19, 19]` of a session, float64; NaN where a window shows nothing."""
    return folder / "parts" / f"{session_id}.npy"


def measure_session(job: CovarianceJob) -> None:
    """Read one recording, and leave its covariances, or why there are none.

    Raises StorageError if they cannot be written, SourceError if it is the machine or the mount
    that fails, not the recording: then no part is left.
    """
    with failing_alone(job):
        covariance_WBCC = _measure(job)
        path = covariance_path(job.folder, job.session_id)
        with atomic(path) as temporary, temporary.open("wb") as handle:
            np.save(handle, covariance_WBCC, allow_pickle=False)


def _measure(job: CovarianceJob) -> Floats:
    file = open_unchanged(job)
    n_chans = len(CHANNELS)
    covariance_WBCC = np.full(
        (len(job.starts_s), len(BANDS_HZ), n_chans, n_chans), np.nan, np.float64
    )
    for window, start_s in enumerate(job.starts_s):
        hidden, time_mask = job.channel_mask[window], job.time_mask[window]
        with reading(job.path):
            stop_s = min(start_s + WINDOW_S, job.crop_s)
            recording = preprocess(file.read(start_s=start_s, stop_s=stop_s), line_hz=job.line_hz)
            if (recording.channel_mask != hidden).any():
                raise RecordingError(f"{job.path}: other channels than when it was ingested")
        visible = np.flatnonzero(~hidden)
        if len(visible) > 1 and not time_mask.all():
            covariance_WBCC[window][:, visible[:, None], visible] = band_covariances(
                recording.signal_uv[visible], time_mask=time_mask
            )
    return covariance_WBCC


def band_covariances(signal_CS: FloatArray, *, time_mask: BoolArray) -> Floats:
    """Covariance of the channels in each band, `[B, C, C]` in uV^2, of rank C - 1.

    The channels' average is taken out. Each band is sampled at just over its Nyquist rate, so that
    its samples are nearly independent, as the shrinkage takes them to be (OAS, Chen et al. 2010).

    Parameters
    ----------
    signal_CS : array, shape (C, S)
        In microvolts at 200 Hz, from the start of a window; two channels or more, all visible.
    time_mask : array, shape (T,)
        True where hidden. Frame i stands for the second around i s.

    Returns
    -------
    array, shape (B, C, C)
        NaN in a band of which no sample is visible, or that is flat.
    """
    from pyriemann.geometry.covariance import covariances

    n_chans, n_times = signal_CS.shape
    contrast_EC = scipy.linalg.helmert(n_chans)
    padded_s = scipy.fft.next_fast_len(math.ceil(n_times / SFREQ_HZ) + 2 * _PAD_S, real=True)
    n_padded, n_before = round(padded_s * SFREQ_HZ), round(_PAD_S * SFREQ_HZ)
    padded = np.pad(
        contrast_EC @ signal_CS.astype(np.float64),
        ((0, 0), (n_before, n_padded - n_before - n_times)),
        mode="reflect",
    )
    spectrum = scipy.fft.rfft(padded)
    covariance_BCC = np.full((len(BANDS_HZ), n_chans, n_chans), np.nan)
    for band, (low_hz, high_hz) in enumerate(BANDS_HZ.values()):
        rate_hz = math.ceil(2 * high_hz + EDGE_HZ)
        n_resampled = padded_s * rate_hz
        kept = spectrum[:, : n_resampled // 2 + 1]
        response = _response(np.arange(kept.shape[1]) / padded_s, low_hz, high_hz)
        resampled = scipy.fft.irfft(kept * response, n=n_resampled) * (n_resampled / n_padded)
        times_s = np.arange(math.floor(n_times / SFREQ_HZ * rate_hz)) / rate_hz
        frame = np.minimum(np.rint(times_s).astype(int), len(time_mask) - 1)
        of_band = resampled[:, _PAD_S * rate_hz :][:, : len(times_s)][:, ~time_mask[frame]]
        if of_band.shape[1] and of_band.any():
            shrunk = covariances(of_band, estimator="oas")
            ridge = _RIDGE * np.trace(shrunk) / len(shrunk) * np.eye(len(shrunk))
            covariance_BCC[band] = contrast_EC.T @ (shrunk + ridge) @ contrast_EC
    return covariance_BCC


def _response(freqs_hz: Floats, low_hz: float, high_hz: float) -> Floats:
    """Zero-phase band-pass; edges are quarter sines, so that adjacent bands share the power."""

    def above(limit_hz: float) -> Floats:
        share: Floats = np.clip((freqs_hz - limit_hz) / EDGE_HZ + 0.5, 0, 1)
        return share

    passed: Floats = np.sin(np.pi / 2 * above(low_hz)) * np.cos(np.pi / 2 * above(high_hz))
    return passed
