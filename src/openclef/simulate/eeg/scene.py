"""A session while its signal is made: sources are collected, then summed over topographies."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from openclef.simulate.eeg.course import Course
from openclef.simulate.eeg.events import Events
from openclef.simulate.eeg.head import ELECTRODES
from openclef.simulate.eeg.noise import band_noise, each_sample
from openclef.simulate.patients import Session
from openclef.types import FloatArray

_AT_ONCE = 16


class Scene:
    """The signal so far: `[E, S]` in uV at `head.ELECTRODES`, against a point far away.

    session, course: who and what. sfreq_hz, n_times: of the signal. Sources wait until several
    can be summed in one product; `signal()` sums those that still wait.
    """

    def __init__(self, session: Session, course: Course, *, sfreq_hz: int) -> None:
        self.session = session
        self.levels = session.levels
        self.course = course
        self.sfreq_hz = sfreq_hz
        self.n_times = course.n_seconds * sfreq_hz
        self._signal = np.zeros((len(ELECTRODES), self.n_times), np.float32)
        self._waveforms: list[FloatArray] = []
        self._topographies: list[FloatArray] = []

    def add(self, waveform: FloatArray, topography_E: FloatArray) -> None:
        """Add a source: waveform `[S]` in uV where the topography is 1."""
        self._waveforms.append(waveform.astype(np.float32, copy=False))
        self._topographies.append(topography_E)
        if len(self._waveforms) == _AT_ONCE:
            self._flush()

    def add_short(self, onset: int, waveform: FloatArray, topography_E: FloatArray) -> None:
        """Add a source that is silent but for one stretch; what lies beyond the ends is cut."""
        first, last = max(0, onset), min(self.n_times, onset + len(waveform))
        if first < last:
            piece = waveform[first - onset : last - onset].astype(np.float32, copy=False)
            self._signal[:, first:last] += topography_E[:, None] * piece

    def _flush(self) -> None:
        if self._waveforms:
            self._signal += np.stack(self._topographies, axis=1) @ np.stack(self._waveforms)
            self._waveforms.clear()
            self._topographies.clear()

    def signal(self) -> FloatArray:
        """Return the sum of all sources so far, `[E, S]`; a view that may be changed in place."""
        self._flush()
        return self._signal

    def rhythm(self, rng: np.random.Generator, center_hz: float, width_hz: float) -> FloatArray:
        """Return narrow-band noise `[S]` of unit RMS."""
        return band_noise(
            rng, center_hz=center_hz, width_hz=width_hz, n_times=self.n_times,
            sfreq_hz=self.sfreq_hz,
        )  # fmt: skip

    def curve(self, values_T: ArrayLike) -> FloatArray:
        """Interpolate one value a second, `[T]`, to every sample, `[S]`."""
        values = np.asarray(values_T, np.float32)
        return each_sample(
            np.append(values, values[-1]), n_times=self.n_times, sfreq_hz=self.sfreq_hz
        )

    def pieces(self, events: Events) -> Iterator[tuple[int, int, float, float]]:
        """Yield first sample, number of samples, amplitude (uV), frequency (Hz) of each event."""
        for first, duration_s, amplitude_uv, frequency_hz in zip(
            self.samples(events).tolist(), events.duration_s, events.amplitude_uv,
            events.frequency_hz, strict=True,
        ):  # fmt: skip
            yield first, max(2, round(duration_s * self.sfreq_hz)), amplitude_uv, frequency_hz

    def samples(self, events: Events) -> NDArray[np.intp]:
        """First sample of each event."""
        return np.rint(events.onset_s * self.sfreq_hz).astype(np.intp)
