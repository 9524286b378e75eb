"""Recording -> multitaper spectrogram in dB with its masks (paper.md [C])."""

from __future__ import annotations

import numpy as np

from openclef.errors import OpenclefError, RecordingError
from openclef.signal.filters import check_finite, checked_for_filters, preprocess
from openclef.signal.fused import can_fuse, fused_power_db
from openclef.signal.gaps import bridge_gaps
from openclef.signal.multitaper import MAX_FREQ_HZ, STEP_S, WINDOW_S
from openclef.types import CHANNELS, MIN_RECORDING_S, SFREQ_HZ, BoolArray, Recording, Spectrogram
from openclef.types import WINDOW_S as SESSION_WINDOW_S

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
    return _fused(recording, line_hz=None)


def _fused(
    recording: Recording, *, line_hz: float | None, n_frames: int | None = None
) -> Spectrogram:
    """Spectrogram of a recording in the order of the 19, raw (with its line) or preprocessed.

    n_frames: pad to so many, as `fit_to_window` does.
    """
    n_given = round(recording.duration_s * SFREQ_HZ) // round(STEP_S * SFREQ_HZ)
    n_frames = n_given if n_frames is None else n_frames
    n_freqs = round(MAX_FREQ_HZ * WINDOW_S)
    time_mask = _padded_mask(_touches_gap(n_given, recording.gaps), n_frames)
    power_db = np.full((len(CHANNELS), n_freqs, n_frames), HIDDEN_DB, np.float32)
    for row in np.flatnonzero(~recording.channel_mask):
        power_db[row, :, :n_given] = fused_power_db(
            recording.signal_uv[row], sfreq_hz=recording.sfreq_hz, line_hz=line_hz
        )
    return Spectrogram(
        power_db=power_db,
        freqs_hz=(np.arange(n_freqs) / WINDOW_S).astype(np.float32),
        times_s=(np.arange(n_frames) * STEP_S).astype(np.float32),
        channel_mask=recording.channel_mask.copy(),
        time_mask=time_mask,
    )


def _padded_mask(time_mask: BoolArray, n_frames: int) -> BoolArray:
    """Hide the padding after the given frames, and frames whose window reaches into it."""
    n_given = len(time_mask)
    if n_given > n_frames:
        raise OpenclefError(
            f"{n_given} frames do not fit a window of {n_frames}: "
            "crop the recording or read it window by window"
        )
    padded = np.pad(time_mask, (0, n_frames - n_given), constant_values=True)
    if n_frames > n_given:
        padded |= np.arange(n_frames) * STEP_S + WINDOW_S / 2 > n_given * STEP_S
    return padded


def _touches_gap(n_frames: int, gaps: tuple[tuple[float, float], ...]) -> BoolArray:
    hidden = np.zeros(n_frames, np.bool_)
    times_s = np.arange(n_frames) * STEP_S
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
    time_mask = _padded_mask(spectrogram.time_mask, n_frames)
    n_pad = n_frames - len(spectrogram.time_mask)
    return Spectrogram(
        power_db=np.pad(
            spectrogram.power_db, ((0, 0), (0, 0), (0, n_pad)), constant_values=HIDDEN_DB
        ),
        freqs_hz=spectrogram.freqs_hz,
        times_s=(np.arange(n_frames) * STEP_S).astype(np.float32),
        channel_mask=spectrogram.channel_mask,
        time_mask=time_mask,
    )


def window_spectrogram(recording: Recording, *, line_hz: float | None = None) -> Spectrogram:
    """From a window as read to what the models take: filters, spectrogram, padding, masks.

    As `fit_to_window(spectrogram(preprocess(recording)))`, but at a whole-numbered rate in one
    linear map of the native samples, some ten times faster and equal to 0.01 dB at the median
    (`signal.fused`). Cohorts and `CLEF.embed` both come this way.

    recording: at most 1,280 s, native rate, microvolts. line_hz: 50 or 60, None: detected.
    Returns power_db `[19, 128, 1280]`. Raises RecordingError and OpenclefError as `preprocess`.
    """
    if not can_fuse(recording.sfreq_hz):
        return fit_to_window(spectrogram(preprocess(recording, line_hz=line_hz)))
    ordered, line_hz = checked_for_filters(recording, line_hz)
    return _fused(bridge_gaps(ordered), line_hz=line_hz, n_frames=SESSION_WINDOW_S)
