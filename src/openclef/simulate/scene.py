"""A session while its signal is made: who, the course of vigilance, and tools to add sources."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from openclef.simulate.patients import Patient, Session, SimulationConfig
from openclef.simulate.sources import band_noise, each_sample, poisson_onsets, train
from openclef.types import FloatArray


@dataclass
class Scene:
    """A session while its signal is made: who, the course of vigilance, the sources so far.

    eyes_closed, drowsy, asleep: `[T + 1]`, one value a second in [0, 1].
    """

    rng: np.random.Generator
    patient: Patient
    session: Session
    effect: float
    sfreq_hz: float
    n_times: int
    eyes_closed: NDArray[np.float64]
    drowsy: NDArray[np.float64]
    asleep: NDArray[np.float64]
    sources: list[tuple[FloatArray, FloatArray]] = field(default_factory=list)

    @classmethod
    def draw(
        cls,
        rng: np.random.Generator,
        patient: Patient,
        session: Session,
        config: SimulationConfig,
    ) -> Scene:
        n_points = config.duration_s + 1
        asleep = np.zeros(n_points)
        drowsy = np.zeros(n_points)
        sleepy = severity(session, "sleep") * config.effect_size
        if sleepy:
            # One stretch of sleep, entered through drowsiness, left by an arousal.
            share = min(0.75, (0.55 if session.setting in {"ltm", "emu"} else 0.35) * sleepy)
            onset = int(rng.uniform(0.1, 1 - share) * n_points)
            asleep[onset : onset + int(share * n_points)] = 1
            drowsy[max(0, onset - int(0.12 * n_points)) : onset] = 1
        length = int(patient.traits.drowsiness * n_points * 0.5)
        at = int(rng.integers(n_points - length))
        drowsy[at : at + length] = 1
        drowsy *= 1 - asleep
        closed = np.ones(n_points)
        at = int(rng.uniform(5, 40))
        while at < n_points:
            length = int(rng.uniform(8, 30))
            closed[at : at + length] = 0
            at += length + int(rng.uniform(40, 150))
        closed = np.maximum(closed, np.maximum(asleep, drowsy))
        # A change of state takes about two seconds.
        eyes_closed, drowsy, asleep = (
            np.convolve(np.pad(curve, 1, mode="edge"), np.ones(3) / 3, mode="valid")
            for curve in (closed, drowsy, asleep)
        )
        return cls(
            rng,
            patient,
            session,
            config.effect_size,
            config.sfreq_hz,
            config.duration_s * int(config.sfreq_hz),
            eyes_closed,
            drowsy,
            asleep,
        )

    def gain(self, band: str) -> float:
        """Amplitude factor of a band from the session's medications."""
        return float(np.exp(self.effect * self.session.gains[band]))

    def severity(self, name: str) -> float:
        return self.effect * severity(self.session, name)

    def noise(self, center_hz: float, width_hz: float) -> FloatArray:
        return band_noise(
            self.rng,
            center_hz=center_hz,
            width_hz=width_hz,
            n_times=self.n_times,
            sfreq_hz=self.sfreq_hz,
        )

    def curve(self, curve_T: NDArray[np.floating]) -> FloatArray:
        return each_sample(curve_T, n_times=self.n_times, sfreq_hz=self.sfreq_hz)

    def waxing(self, depth: float) -> NDArray[np.float64]:
        """Draw a slow modulation `[T + 1]` around 1, as no rhythm is steady."""
        steps = self.rng.standard_normal(len(self.asleep) // 8 + 2)
        slow = np.interp(np.arange(len(self.asleep)) / 8, np.arange(len(steps)), steps)
        return np.exp(depth * slow)

    def onsets(self, rate_hz_T: NDArray[np.floating]) -> NDArray[np.intp]:
        return poisson_onsets(self.rng, rate_hz_T=rate_hz_T[:-1], sfreq_hz=self.sfreq_hz)

    def events(
        self, onsets_N: NDArray[np.intp], template_S: NDArray[np.floating], *, spread: float = 0.25
    ) -> FloatArray:
        """Put a template at each onset, amplitudes log-normal with the given spread."""
        amplitudes_N = self.rng.lognormal(0, spread, len(onsets_N))
        return train(
            onsets_N, template_S=template_S, n_times=self.n_times, amplitudes_N=amplitudes_N
        )

    def window(self, length_s: float) -> NDArray[np.float64]:
        return np.hanning(int(length_s * self.sfreq_hz))

    def times(self, length_s: float) -> NDArray[np.float64]:
        return np.arange(int(length_s * self.sfreq_hz)) / self.sfreq_hz

    def add(self, waveform: FloatArray, topography_C: FloatArray) -> None:
        self.sources.append((waveform, topography_C))


def severity(session: Session, name: str) -> float:
    """Return how strong a finding is in a session, 0 if absent."""
    return session.findings[name].severity if name in session.findings else 0.0
