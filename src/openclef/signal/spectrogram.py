"""Preprocessed recording -> multitaper spectrogram in dB with its masks (paper.md [C])."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from openclef.errors import OpenclefError, RecordingError
from openclef.signal.filters import check_finite, preprocess
from openclef.signal.multitaper import STEP_S, WINDOW_S, multitaper_psd
from openclef.types import CHANNELS, MIN_RECORDING_S, SFREQ_HZ, BoolArray, Recording, Spectrogram
from openclef.types import WINDOW_S as SESSION_WINDOW_S

FLOOR_UV2_HZ = 1e-10  # keeps the logarithm finite: -100 dB
HIDDEN_DB = 0.0  # where there is no measurement; the middle of the tokenizer's range


def spectrogram(recording: Recording) -> Spectrogram:
    """Compute the power of 19 channels below 32 Hz, a frame a second, in dB, unclamped.

    Frame i is the 4-s window centred at i seconds; 2 s are reflected at both ends and the last
    frame is dropped, so T = floor(duration_s) (paper.md, 3D multitaper spectrogram [C]).

    Parameters
    ----------
    recording
        As `preprocess` returns it: 200 Hz, the 19 channels in order, at least 4 s.

    Returns
    -------
    Spectrogram
        power_db `[19, 128, T]`: 10 log10(uV^2/Hz + 1e-10); 0 for hidden channels. A frame is
        hidden if its window touches a gap.

    Raises
    ------
    RecordingError
        Not preprocessed, shorter than 4 s, or samples that are not finite.
    """
    if recording.sfreq_hz != SFREQ_HZ or recording.ch_names != CHANNELS:
        raise RecordingError(
            f"{len(recording.ch_names)} channels at {recording.sfreq_hz:g} Hz; a spectrogram needs "
            f"the {len(CHANNELS)} in order at {SFREQ_HZ:g} Hz: call preprocess first"
        )
    if recording.duration_s < MIN_RECORDING_S:
        raise RecordingError(f"lasts {recording.duration_s:g} s; at least {MIN_RECORDING_S:g} s")
    check_finite(recording)
    visible = ~recording.channel_mask
    n_half = round(WINDOW_S / 2 * SFREQ_HZ)
    padded = np.pad(recording.signal_uv[visible], ((0, 0), (n_half, n_half)), mode="reflect")
    psd, freqs_hz = multitaper_psd(padded, sfreq_hz=SFREQ_HZ)
    n_frames = psd.shape[-1] - 1
    power_db = np.full((len(CHANNELS), len(freqs_hz), n_frames), HIDDEN_DB, np.float32)
    psd += FLOOR_UV2_HZ
    np.log10(psd, out=psd)
    power_db[visible] = 10 * psd[..., :n_frames]
    times_s = np.arange(n_frames) * STEP_S
    return Spectrogram(
        power_db=power_db,
        freqs_hz=freqs_hz.astype(np.float32),
        times_s=times_s.astype(np.float32),
        channel_mask=recording.channel_mask.copy(),
        time_mask=_touches_gap(times_s, recording.gaps),
    )


def _touches_gap(times_s: NDArray[np.float64], gaps: tuple[tuple[float, float], ...]) -> BoolArray:
    hidden = np.zeros(len(times_s), np.bool_)
    for start_s, stop_s in gaps:
        hidden |= (times_s - WINDOW_S / 2 < stop_s) & (times_s + WINDOW_S / 2 > start_s)
    return hidden


def fit_to_window(spectrogram: Spectrogram, *, n_frames: int = SESSION_WINDOW_S) -> Spectrogram:
    """Pad a spectrogram to the length the models take.

    Padding is 0 and hidden. Of a shorter recording the frames whose window reaches past its end
    are hidden too; one of full length hides none.

    Raises
    ------
    OpenclefError
        More frames than `n_frames`: crop the recording, or read it window by window.
    """
    n_given = spectrogram.power_db.shape[-1]
    if n_given > n_frames:
        raise OpenclefError(
            f"{n_given} frames do not fit a window of {n_frames}: "
            "crop the recording or read it window by window"
        )
    n_pad = n_frames - n_given
    times_s = np.arange(n_frames) * STEP_S
    time_mask = np.pad(spectrogram.time_mask, (0, n_pad), constant_values=True)
    if n_pad:
        time_mask |= times_s + WINDOW_S / 2 > n_given * STEP_S
    return Spectrogram(
        power_db=np.pad(
            spectrogram.power_db, ((0, 0), (0, 0), (0, n_pad)), constant_values=HIDDEN_DB
        ),
        freqs_hz=spectrogram.freqs_hz,
        times_s=times_s.astype(np.float32),
        channel_mask=spectrogram.channel_mask,
        time_mask=time_mask,
    )


def window_spectrogram(recording: Recording, *, line_hz: float | None = None) -> Spectrogram:
    """From a window as read to what the models take: `preprocess`, `spectrogram`, `fit_to_window`.

    recording: at most 1,280 s, native rate, microvolts. Returns power_db `[19, 128, 1280]`.
    Cohorts and `CLEF.embed` both come this way. Raises RecordingError as its parts do.
    """
    return fit_to_window(spectrogram(preprocess(recording, line_hz=line_hz)))
