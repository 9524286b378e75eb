"""Waveforms of artefacts, made of their events."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from openclef.simulate.eeg.course import COMA, N1, N2, N3, REM, WAKE
from openclef.simulate.eeg.events import Events, of_kind
from openclef.simulate.eeg.fields import MUSCLES
from openclef.simulate.eeg.noise import shaped_noise
from openclef.simulate.eeg.scene import Scene
from openclef.types import CHANNELS, FloatArray

Seconds = NDArray[np.float64]

_R_S = 0.05  # from the onset of a beat to its R wave
_FIBRILLATING = 0.15  # irregularity of the beat from here on
_PEAK_OVER_RMS = 3.0  # of muscle noise
_TONE_UV = 0.9  # RMS of muscles at rest, awake


def add(scene: Scene, events: Iterable[Events], rng: np.random.Generator) -> None:
    """Add the waveforms of all artefacts, and the tone that muscles have between their bouts."""
    events = tuple(events)
    for kind, shape in _SHAPES.items():
        for group in of_kind(events, kind):
            _add_trace(scene, group, shape)
    for group in of_kind(events, "pop"):
        _add_trace(scene, group, _pop, signs_N=rng.choice((-1.0, 1.0), len(group)))
    _add_muscle(scene, events, rng)
    for group in of_kind(events, "sweat"):
        _add_sweat(scene, group, rng)
    for group in of_kind(events, "jerk"):
        _add_jerks(scene, group, rng)
    for group in of_kind(events, "movement"):
        _add_movements(scene, group, rng)


def heart_trace(
    events: Iterable[Events], *, n_times: int, sfreq_hz: int, irregularity: float
) -> FloatArray:
    """What an electrode over the heart records.

    Parameters
    ----------
    events : iterable of Events
        Of the session; only beats are used.
    n_times, sfreq_hz : int
        Length and sampling frequency.
    irregularity : float
        SD over mean of the beat interval; atria that fibrillate make no P wave.

    Returns
    -------
    array, shape=(n_times,)
        P, QRS and T of every beat, in uV; R waves of 1 mV.
    """
    times = np.arange(-int(0.3 * sfreq_hz), int(0.45 * sfreq_hz)) / sfreq_hz
    beat = _qrs(times + _R_S, 0, 0) * 1000
    p_uv = 0 if irregularity > _FIBRILLATING else 110
    for peak_s, width_s, uv in ((-0.16, 0.025, p_uv), (0.26, 0.05, 240)):
        beat += uv * np.exp(-(((times - peak_s) / width_s) ** 2))
    trace = np.zeros(n_times + 2 * len(beat), np.float32)
    for group in of_kind(events, "heartbeat"):
        for r_s in group.onset_s + _R_S:
            first = round(r_s * sfreq_hz) - int(0.3 * sfreq_hz) + len(beat)
            trace[first : first + len(beat)] += beat.astype(np.float32)
    return trace[len(beat) : len(beat) + n_times]


def _add_trace(
    scene: Scene, group: Events, shape: _Shape, *, signs_N: Seconds | float = 1.0
) -> None:
    """Add events of one shape at one place as one source."""
    trace = np.zeros(scene.n_times, np.float32)
    for first, duration_s, uv, hz in zip(
        scene.samples(group).tolist(), group.duration_s.tolist(),
        (signs_N * group.amplitude_uv).tolist(), group.frequency_hz.tolist(), strict=True,
    ):  # fmt: skip
        n = min(max(2, round(duration_s * scene.sfreq_hz)), scene.n_times - first)
        times = np.arange(n) / scene.sfreq_hz
        trace[first : first + n] += uv * shape(times, duration_s, hz)
    scene.add(trace, _topography(group))


def _topography(group: Events) -> FloatArray:
    assert group.place is not None, group.kind  # artefacts always have one
    return group.place.topography


def _add_muscle(scene: Scene, events: tuple[Events, ...], rng: np.random.Generator) -> None:
    """Noise of each muscle, which bouts and chewing raise above its tone."""
    freqs_F = np.arange(scene.n_times // 2 + 1) * (scene.sfreq_hz / scene.n_times)
    # Motor units fire from 20 Hz on; half of what there is below 100 Hz lies above 55.
    psd_F = (freqs_F / 28) ** 4 / (1 + (freqs_F / 28) ** 4) / (1 + (freqs_F / 80) ** 2)
    psd_F /= 50.0  # RMS about 1 below 100 Hz
    share = scene.course.share
    tone_T = share(WAKE) + 0.6 * share(N1) + 0.3 * share(N2, N3, COMA) + 0.15 * share(REM)
    tone_uv = _TONE_UV * rng.lognormal(0, 0.5)
    for place in MUSCLES:
        envelope = scene.curve(tone_uv * rng.lognormal(0, 0.3) * tone_T)
        for group in of_kind(events, "muscle", "chewing"):
            if group.place == place:
                _raise_bouts(envelope, group, scene)
        noise = shaped_noise(rng, psd_F=psd_F, n_times=scene.n_times, sfreq_hz=scene.sfreq_hz)
        scene.add(envelope * noise, place.topography)


def _raise_bouts(envelope: FloatArray, group: Events, scene: Scene) -> None:
    columns = (scene.samples(group), group.duration_s, group.amplitude_uv, group.frequency_hz)
    for first, duration_s, uv, hz in zip(*(c.tolist() for c in columns), strict=True):
        n = min(round(duration_s * scene.sfreq_hz), scene.n_times - first)
        times = np.arange(n) / scene.sfreq_hz
        shape = _ramps(times, duration_s, 0.2)
        if np.isfinite(hz):
            shape *= np.sin(np.pi * hz * times) ** 4
        envelope[first : first + n] += uv / _PEAK_OVER_RMS * shape


def _add_sweat(scene: Scene, group: Events, rng: np.random.Generator) -> None:
    """Drifts of several seconds."""
    seconds = np.arange(scene.course.n_seconds)
    for onset_s, duration_s, uv in zip(
        group.onset_s, group.duration_s, group.amplitude_uv, strict=True
    ):
        drift_T = np.convolve(rng.standard_normal(len(seconds) + 8), np.hanning(9), mode="valid")
        drift_T *= _ramps(seconds - onset_s, duration_s, 10.0)
        scene.add(scene.curve(uv / np.abs(drift_T).max() * drift_T), _topography(group))


def _add_jerks(scene: Scene, group: Events, rng: np.random.Generator) -> None:
    """A burst of muscle, and the head that it moves."""
    times = np.arange(int(0.5 * scene.sfreq_hz)) / scene.sfreq_hz
    swing = 0.5 * np.sin(2 * np.pi * times / 0.4) * np.exp(-(((times - 0.2) / 0.13) ** 2))
    for first, duration_s, uv in zip(
        scene.samples(group).tolist(), group.duration_s, group.amplitude_uv, strict=True
    ):
        burst = rng.standard_normal(len(times)) * _ramps(times, duration_s, duration_s / 3)
        burst = 0.8 * burst / np.abs(burst).max()
        scene.add_short(first, uv * (burst + swing), _topography(group))


def _add_movements(scene: Scene, group: Events, rng: np.random.Generator) -> None:
    """Irregular slow waves with muscle, large and different at each electrode."""
    topography_E = _topography(group)
    columns = (scene.samples(group), group.duration_s, group.amplitude_uv, group.frequency_hz)
    for first, duration_s, uv, hz in zip(*(c.tolist() for c in columns), strict=True):
        times = np.arange(max(2, round(duration_s * scene.sfreq_hz))) / scene.sfreq_hz
        phases = 2 * np.pi * (np.outer(_PARTIALS * hz, times) + rng.random((len(_PARTIALS), 1)))
        wave = np.sin(phases).sum(axis=0) + 0.3 * rng.standard_normal(len(times))
        wave *= _ramps(times, duration_s, 0.4)
        weights_E = topography_E * rng.normal(0.4, 0.6, len(topography_E)).astype(np.float32)
        weights_E /= np.abs(weights_E[: len(CHANNELS)]).max()
        scene.add_short(first, uv / np.abs(wave).max() * wave, weights_E)


# The shape of an event: seconds since its onset, its duration and frequency -> peak about 1.
_Shape = Callable[[Seconds, float, float], Seconds]
_PARTIALS = np.array([0.4, 1.0, 1.7, 2.9])


def _ramps(t_S: Seconds, duration_s: float, rise_s: float) -> Seconds:
    """1, but for a linear rise and fall."""
    return np.clip(np.minimum(t_S, duration_s - t_S) / rise_s, 0, 1)


def _blink(t_S: Seconds, duration_s: float, _: float) -> Seconds:
    """Up fast, down slowly."""
    return np.sin(np.pi * (t_S / duration_s) ** 0.6) ** 2


def _saccade(t_S: Seconds, duration_s: float, _: float) -> Seconds:
    return _ramps(t_S, duration_s, 0.05)


def _roll(t_S: Seconds, duration_s: float, hz: float) -> Seconds:
    return np.sin(2 * np.pi * hz * t_S) * np.sqrt(np.sin(np.pi * t_S / duration_s))


def _qrs(t_S: Seconds, _: float, __: float) -> Seconds:
    t_S = t_S - _R_S
    return (
        np.exp(-((t_S / 0.012) ** 2))
        - 0.14 * np.exp(-(((t_S + 0.028) / 0.01) ** 2))
        - 0.25 * np.exp(-(((t_S - 0.03) / 0.012) ** 2))
    )


def _tremor(t_S: Seconds, duration_s: float, hz: float) -> Seconds:
    phase = 2 * np.pi * hz * t_S
    return _ramps(t_S, duration_s, 0.8) * (0.85 * np.sin(phase) + 0.3 * np.sin(2 * phase))


def _breaths(t_S: Seconds, _: float, hz: float) -> Seconds:
    """A sharp valve and a slow chest at each breath."""
    cycle = (hz * t_S) % 1
    return 0.65 * np.exp(-(((cycle - 0.75) / 0.03) ** 2)) - 0.35 * np.sin(2 * np.pi * cycle)


def _pop(t_S: Seconds, duration_s: float, _: float) -> Seconds:
    return np.exp(-4 * t_S / duration_s)


_SHAPES: dict[str, _Shape] = {
    "blink": _blink, "eye_movement": _saccade, "roving": _roll, "heartbeat": _qrs,
    "tremor": _tremor, "percussion": _tremor, "ventilator": _breaths,
}  # fmt: skip
