"""The amplifier: from potentials at the electrodes to what is recorded of each channel.

Electrode noise and mains come in at the electrodes, so that the reference spreads them; gain,
filters and range are those of the headbox.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, sosfilt

from openclef.simulate.eeg.head import ELECTRODES, POSITIONS
from openclef.simulate.eeg.noise import each_sample
from openclef.simulate.parameters import Setting, Site
from openclef.simulate.patients import Session
from openclef.types import CHANNELS, FloatArray

# Digital steps on either side of zero: not all of 16 bits, so that the limits in microvolts are
# short enough for the 8 characters of an EDF header.
N_STEPS = 32_000
# Weights of the electrodes that are subtracted. The headbox's own "Cz" lies just behind Cz, as on
# most caps: the channel Cz is small, but not empty.
_REFERENCES = {
    "linked ears": {"A1": 0.5, "A2": 0.5},
    "average": dict.fromkeys(CHANNELS, 1 / len(CHANNELS)),
    "Cz": {"Cz": 0.75, "Pz": 0.25},
    "A1": {"A1": 1.0},
}
# Share of electrodes whose contact is so poor that they pick up many times the mains.
_POOR_CONTACT: dict[Setting, float] = {"routine": 0.01, "ltm": 0.03, "emu": 0.02, "icu": 0.06}
_ICU_MAINS = 1.8
_GAIN_SD = 0.02
_NOISY_UV = 35.0
_DRIFT = 1.2  # in units of the electrode's noise, a second


def record(
    signal_ES: FloatArray,
    session: Session,
    site: Site,
    rng: np.random.Generator,
    *,
    names: tuple[str, ...] = CHANNELS,
) -> FloatArray:
    """Record a session with a site's amplifier.

    Parameters
    ----------
    signal_ES : array, shape=(21, n_times)
        Potentials at `head.ELECTRODES` in uV; not changed.
    session : Session
        Sampling frequency, setting and bad channels.
    site : Site
        The amplifier.
    rng : Generator
        Noise, gains and mains.
    names : tuple of str
        Electrodes to record, of `head.ELECTRODES`.

    Returns
    -------
    array, shape=(len(names), n_times)
        In uV, float32, within the range of the amplifier.
    """
    sfreq_hz = session.sfreq_hz
    noise_ES = rng.standard_normal(signal_ES.shape, dtype=np.float32)
    noise_ES *= np.float32(site.noise_uv)
    bad = {ELECTRODES.index(name): kind for name, kind in session.bad_channels.items()}
    for row, kind in bad.items():
        if kind == "noisy":
            noise_ES[row] = _poor_noise(rng, noise_ES.shape[1], sfreq_hz)
    potential_ES = noise_ES
    potential_ES += signal_ES
    _add_drift(potential_ES, rng, sfreq_hz, site.noise_uv)
    potential_ES += _mains(rng, session, site, n_times=potential_ES.shape[1], bad=bad)
    for row, kind in bad.items():
        if kind == "bridged":
            other = _neighbour(row)
            potential_ES[row] = potential_ES[other] = (potential_ES[row] + potential_ES[other]) / 2

    weights_E = np.zeros(len(ELECTRODES), np.float32)
    for name, weight in _REFERENCES[site.reference].items():
        weights_E[ELECTRODES.index(name)] = weight
    rows = [ELECTRODES.index(name) for name in names]
    gain_E = np.float32(site.gain) * rng.normal(1, _GAIN_SD, len(ELECTRODES)).astype(np.float32)
    mixing_CE = np.eye(len(ELECTRODES), dtype=np.float32)[rows] - weights_E
    recorded_CS: FloatArray = (gain_E[rows, None] * mixing_CE) @ potential_ES
    for channel, row in enumerate(rows):
        if bad.get(row) == "flat":  # the input is open or shorted: the amplifier's own noise
            quiet = rng.standard_normal(recorded_CS.shape[1], dtype=np.float32)
            recorded_CS[channel] = 0.3 * site.noise_uv * quiet
    recorded_CS = sosfilt(_band(site.highpass_hz, site.lowpass_hz, sfreq_hz), recorded_CS)
    limit_uv = range_uv(site)
    return np.clip(recorded_CS, -limit_uv, limit_uv, out=recorded_CS)


def range_uv(site: Site) -> float:
    """Largest value that a site's converter can tell, in uV."""
    return round(N_STEPS * site.resolution_uv, 6)


def lowpass_hz(site: Site, *, sfreq_hz: float) -> float:
    """Upper end of the band that is recorded: the site's filter, or half the sampling frequency."""
    return site.lowpass_hz if _is_filtered(site.lowpass_hz, sfreq_hz) else sfreq_hz / 2


def bridges(session: Session) -> dict[str, str]:
    """Bridged electrodes, each with the neighbour whose potential it shares."""
    return {
        name: ELECTRODES[_neighbour(ELECTRODES.index(name))]
        for name, kind in session.bad_channels.items()
        if kind == "bridged"
    }


def bad_names(session: Session) -> frozenset[str]:
    """Electrodes whose channels are bad: also those that a bridge leads to."""
    return frozenset(session.bad_channels) | frozenset(bridges(session).values())


def _is_filtered(lowpass_hz: float, sfreq_hz: float) -> bool:
    return lowpass_hz < 0.49 * sfreq_hz  # else sampling has cut the band already


@cache
def _band(highpass_hz: float, lowpass_hz: float, sfreq_hz: int) -> NDArray[np.float32]:
    """First-order high-pass and fourth-order low-pass (Butterworth) as second-order sections."""
    sections = [butter(1, highpass_hz, "highpass", fs=sfreq_hz, output="sos")]
    if _is_filtered(lowpass_hz, sfreq_hz):
        sections.append(butter(4, lowpass_hz, "lowpass", fs=sfreq_hz, output="sos"))
    return np.concatenate(sections).astype(np.float32)


def _neighbour(row: int) -> int:
    """The nearest of the other channels."""
    x, y = POSITIONS[ELECTRODES[row]]
    distances = [math.hypot(POSITIONS[n][0] - x, POSITIONS[n][1] - y) for n in CHANNELS]
    distances[row] = math.inf
    return distances.index(min(distances))


def _slow(rng: np.random.Generator, spread: float, n_times: int, sfreq_hz: int) -> FloatArray:
    """A log-normal factor `[S]` that changes over some ten seconds."""
    n_seconds = n_times // sfreq_hz
    knots = np.convolve(rng.standard_normal(n_seconds + 20), np.hanning(20), mode="valid")
    factor_T = np.exp(spread * knots / np.linalg.norm(np.hanning(20)))
    return each_sample(factor_T, n_times=n_times, sfreq_hz=sfreq_hz)


def _poor_noise(rng: np.random.Generator, n_times: int, sfreq_hz: int) -> FloatArray:
    """What an electrode without good contact adds: broadband noise that comes and goes."""
    noise = rng.standard_normal(n_times, dtype=np.float32) * _slow(rng, 0.7, n_times, sfreq_hz)
    return np.float32(_NOISY_UV * rng.lognormal(0, 0.4)) * noise


def _add_drift(
    potential_ES: FloatArray, rng: np.random.Generator, sfreq_hz: int, noise_uv: float
) -> None:
    """Add the slow walk of the electrodes' own potentials, most of which the high-pass takes."""
    n_electrodes, n_times = potential_ES.shape
    steps_ET = rng.normal(0, _DRIFT * noise_uv, (n_electrodes, n_times // sfreq_hz + 1))
    for row, walk_T in enumerate(np.cumsum(steps_ET, axis=1)):
        potential_ES[row] += each_sample(walk_T, n_times=n_times, sfreq_hz=sfreq_hz)


def _mains(
    rng: np.random.Generator, session: Session, site: Site, *, n_times: int, bad: Mapping[int, str]
) -> FloatArray:
    """Mains at each electrode `[E, S]`: its own size and phase, and a third harmonic."""
    n_electrodes, sfreq_hz = len(ELECTRODES), session.sfreq_hz
    size_E = (
        site.line_uv * math.sqrt(2) * rng.lognormal(0, 0.4) * rng.lognormal(0, 0.7, n_electrodes)
    )
    if session.setting == "icu":
        size_E *= _ICU_MAINS
    poor_E = rng.random(n_electrodes) < _POOR_CONTACT[session.setting]
    poor_E[[row for row, kind in bad.items() if kind == "noisy"]] = True
    size_E[poor_E] *= rng.lognormal(math.log(15), 1.2, poor_E.sum())
    phase_E = rng.uniform(0, 2 * math.pi) + rng.normal(0, 0.5, n_electrodes)
    cycles = np.arange(n_times) * (rng.normal(site.line_hz, 0.01) / sfreq_hz)
    angle = (2 * np.pi * (cycles % 1)).astype(np.float32)
    drift = _slow(rng, 0.25, n_times, sfreq_hz)
    carriers, weights = [], []
    for harmonic, share in ((1, 1.0), (3, 0.15)):
        if harmonic * site.line_hz < sfreq_hz / 2:
            carriers += [drift * np.cos(harmonic * angle), drift * np.sin(harmonic * angle)]
            weights += [share * size_E * np.cos(phase_E), share * size_E * np.sin(phase_E)]
    mains_ES: FloatArray = np.stack(weights, axis=1).astype(np.float32) @ np.stack(carriers)
    return mains_ES
