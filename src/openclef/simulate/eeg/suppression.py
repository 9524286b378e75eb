"""What acts on everything the brain does: burst suppression and low voltage."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from scipy.ndimage import gaussian_filter1d

from openclef.simulate.eeg.course import Course
from openclef.simulate.eeg.events import Events, of_kind
from openclef.simulate.eeg.scene import Scene
from openclef.simulate.eeg.waveforms import GENERALIZED, fade
from openclef.simulate.patients import Session
from openclef.types import CHANNELS

_RESIDUAL = 0.05
_LOW_VOLTAGE = 0.35
_LOW_VOLTAGE_UV = 20.0
_EDGE_S = 0.15
_MOST_GAIN = 4.0


def draw(rng: np.random.Generator, session: Session, course: Course) -> list[Events]:
    """Draw the bursts of burst suppression; low voltage is one event, the whole session.

    Where there are bursts, they alone set the amplitude.
    """
    found, n_seconds = session.findings, course.n_seconds
    if "burst_suppression" in found:
        finding = found["burst_suppression"]
        # The deeper, the longer the silence: 2 to 15 s; it swings with what is left of vigilance.
        silence_s = float(np.clip(5 * finding.strength**2, 2, min(15, n_seconds / 5)))
        n_drawn = int(2 * n_seconds / silence_s) + 20
        burst_N = (1.5 * rng.lognormal(0, 0.45, n_drawn)).clip(0.5, 4)
        silence_N = silence_s * rng.lognormal(0, 0.35, n_drawn)
        onset_N = np.cumsum(silence_N + burst_N) - burst_N - rng.random() * silence_N[0]
        swing_N = course.vigilance[onset_N.clip(0, n_seconds - 1).astype(np.intp)]
        onset_N -= (silence_N * (1 - np.exp(-0.5 * np.abs(swing_N)))).clip(0, 0.5 * silence_N)
        inside = (onset_N >= 0) & (onset_N + burst_N <= n_seconds)
        return [
            Events.of(
                "burst_suppression", GENERALIZED, onset_N[inside], duration_s=burst_N[inside],
                amplitude_uv=100 * rng.lognormal(0, 0.25, int(inside.sum())),
            )
        ]  # fmt: skip
    if "low_voltage" in found:
        return [
            Events.of(
                "low_voltage", GENERALIZED, [0.0], duration_s=float(n_seconds),
                amplitude_uv=_LOW_VOLTAGE_UV,
            )
        ]  # fmt: skip
    return []


def apply(scene: Scene, events: Iterable[Events]) -> None:
    """Scale the scene's signal in place, findings included.

    Between bursts a twentieth is left; bursts are sharpened and brought to the amplitude of their
    events. Low voltage leaves a third of everything.
    """
    events = tuple(events)
    for group in of_kind(events, "burst_suppression"):
        _apply_bursts(scene, group)
    if of_kind(events, "low_voltage"):
        scene.signal()[:] *= _LOW_VOLTAGE


def _apply_bursts(scene: Scene, group: Events) -> None:
    signal_ES, sfreq_hz = scene.signal(), scene.sfreq_hz
    bursts = []
    for first, duration_s, amplitude_uv in zip(
        scene.samples(group).tolist(), group.duration_s, group.amplitude_uv, strict=True
    ):
        burst_ES = signal_ES[:, first : first + round(duration_s * sfreq_hz)]
        # What is faster than about 5 Hz counts more: bursts are spiky.
        slow_ES = gaussian_filter1d(burst_ES, 0.03 * sfreq_hz, axis=1, mode="nearest")
        sharp_ES = burst_ES + 0.8 * (burst_ES - slow_ES)
        peak_uv = np.abs(sharp_ES[: len(CHANNELS)]).max(axis=1).mean()
        gain = np.clip(amplitude_uv / max(1e-6, float(peak_uv)), 1 / _MOST_GAIN, _MOST_GAIN)
        envelope_S = fade(burst_ES.shape[1], sfreq_hz, in_s=_EDGE_S, out_s=2 * _EDGE_S)
        bursts.append((first, burst_ES * (-_RESIDUAL * envelope_S) + gain * sharp_ES * envelope_S))
    signal_ES *= _RESIDUAL
    for first, burst_ES in bursts:
        signal_ES[:, first : first + burst_ES.shape[1]] += burst_ES
