"""What findings have in common: when they come, how large they are, what shapes they are made of.

Rates are doubly stochastic: what the state of the session allows, times a slow random swing, so
that events cluster. Surface-negative is negative, as in the recording. Axis letters: N event, T
second, S sample, E electrode.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.signal import lfilter

from openclef.simulate.eeg.course import STAGES, Course
from openclef.simulate.eeg.events import Events, Times
from openclef.simulate.eeg.fields import Field
from openclef.simulate.eeg.head import ELECTRODES, POSITIONS
from openclef.simulate.eeg.noise import band_noise, shaped_noise
from openclef.simulate.eeg.scene import Scene
from openclef.simulate.patients import Finding, Session, Side
from openclef.types import CHANNELS, FloatArray


def _widespread(region: str, y: float, extent: float) -> Field:
    """Return a field of one sign that falls off to all sides; unlike that of a patch of dipoles."""
    distance2_E = [x**2 + (y_e - y) ** 2 for x, y_e in (POSITIONS[name] for name in ELECTRODES)]
    weights_E = np.exp(-np.array(distance2_E) / (2 * extent**2))
    weights_E /= weights_E[: len(CHANNELS)].max()
    return Field(None, region, 0.0, y, extent, tuple(weights_E.tolist()))


# Of the whole cortex at once: largest over the front, over the middle, over the front alone.
GENERALIZED = _widespread("diffuse", 0.5, 0.8)
GENERALIZED_MIDDLE = _widespread("diffuse", 0.0, 0.85)
FRONTAL = _widespread("frontal", 0.75, 0.6)
# How much of the posterior rhythm a region sees.
_ALPHA_SEEN = {"occipital": 1.0, "parietal": 0.8, "diffuse": 0.5, "temporal": 0.5, "central": 0.4}
# From front to back in steps of one electrode: where a travelling wave passes.
_ROWS_Y = np.array([0.95, 0.55, 0.0, -0.55, -0.95])


def other_side(side: Side | None) -> Side:
    """Return the opposite side."""
    return "right" if side == "left" else "left"


def peak_uv(
    session: Session, finding: Finding, region: str, *, typical_uv: float, over: float
) -> float:
    """Peak of a transient that stands out from the individual's background.

    Parameters
    ----------
    session, finding : Session, Finding
        Levels of the background; strength of the finding.
    region : str
        Where it is seen best.
    typical_uv : float
        Peak at strength 1.
    over : float
        At least as many times the RMS of the background in its region.
    """
    levels = session.levels
    # Slow activity hides a sharp wave less than its power says.
    background_uv = math.hypot(
        levels["background_uv"], levels["theta_uv"], 0.5 * levels["delta_uv"],
        _ALPHA_SEEN.get(region, 0.3) * levels["alpha_uv"] * ("absent_pdr" not in session.findings),
    )  # fmt: skip
    return max(typical_uv * finding.strength, over * background_uv)


# When.


def by_stage(course: Course, **weights: float) -> Times:
    """Return `[T]`: the weight of each second's stage, 0 for those not named."""
    return np.array([weights.get(name, 0.0) for name in STAGES])[course.stage]


def swing(rng: np.random.Generator, n_seconds: int, *, tau_s: float, depth: float) -> Times:
    """Return a slow log-normal swing `[T]` of mean 1, correlated over `tau_s`."""
    keep = math.exp(-1 / tau_s)
    drive_T = math.sqrt(1 - keep**2) * rng.standard_normal(n_seconds)
    drive_T[0] = rng.standard_normal()
    return np.exp(depth * lfilter([1.0], [1.0, -keep], drive_T) - depth**2 / 2)


def since(times_s: ArrayLike, n_seconds: int, *, fade_s: float) -> Times:
    """Return `[T]` in [0, 1]: 1 at the last of some times, fading after it."""
    second_N = np.asarray(times_s, np.float64).astype(np.intp)
    counts_T = np.bincount(second_N[second_N < n_seconds], minlength=n_seconds).astype(np.float64)
    return np.minimum(1.0, lfilter([1.0], [1.0, -math.exp(-1 / fade_s)], counts_T))


def onsets(
    rng: np.random.Generator,
    rate_T: Times,
    *,
    at_least: int = 3,
    apart_s: float = 1.0,
    tail_s: float = 1.0,
) -> Times:
    """Draw onsets of a Poisson process; a finding that can show itself does so a few times.

    Parameters
    ----------
    rng : Generator
        Randomness.
    rate_T : array, shape=(n_seconds,)
        Events a second.
    at_least : int
        If fewer come, they are drawn by the rate; none if it is 0 throughout.
    apart_s : float
        An event that would come sooner after the last one waits.
    tail_s : float
        None begins as close to the end.
    """
    n_seconds = len(rate_T)
    rate_T = np.where(np.arange(n_seconds) < n_seconds - tail_s, rate_T, 0.0)
    second_N = np.repeat(np.arange(n_seconds), rng.poisson(rate_T))
    if len(second_N) < at_least:
        if not rate_T.any():
            return np.zeros(0)
        second_N = rng.choice(n_seconds, at_least, p=rate_T / rate_T.sum())
    wait_N = apart_s * np.arange(len(second_N))
    onset_N = np.sort(second_N + rng.random(len(second_N)))
    onset_N = np.maximum.accumulate(onset_N - wait_N) + wait_N
    # What was pushed beyond the end comes just before it, if it is needed.
    late = onset_N > n_seconds - tail_s
    if late.any() and (~late).sum() < at_least:
        return np.minimum(onset_N, n_seconds - tail_s - wait_N[::-1])
    return onset_N[~late]


def bouts(
    rng: np.random.Generator,
    weight_T: Times,
    *,
    length_s: float,
    duty: float,
    at_least: int = 2,
) -> tuple[Times, Times]:
    """Draw bouts that come and go: onsets and durations, `[N]` each, in seconds.

    Parameters
    ----------
    rng : Generator
        Randomness.
    weight_T : array, shape=(n_seconds,)
        How readily a bout begins, relative.
    length_s : float
        Mean length; at most as long as lets `at_least` fit.
    duty : float
        Share of the time within bouts where the weight is 1, whatever their length.
    at_least : int
        As in `onsets`.
    """
    n_seconds = len(weight_T)
    length_s = min(length_s, 0.5 * n_seconds / at_least)
    most = float(min(8.0, max(1e-6, weight_T.max())))
    gap_s = length_s * (1 - duty) / duty / most
    n_drawn = int(2 * n_seconds / (length_s + gap_s)) + 20
    duration_N = length_s * rng.lognormal(-0.125, 0.5, n_drawn).clip(0.3, 2.5)
    onset_N = np.cumsum(duration_N + rng.exponential(gap_s, n_drawn)) - duration_N
    onset_N -= rng.random() * length_s
    second_N = onset_N.clip(0, n_seconds - 1).astype(np.intp)
    kept = rng.random(n_drawn) < weight_T[second_N] / most
    kept &= (onset_N >= 0) & (onset_N < n_seconds - 0.5 * duration_N)
    if kept.sum() < at_least:
        slot_s = n_seconds / at_least
        onset_N = (np.arange(at_least) + 0.4 * rng.random(at_least)) * slot_s
        kept, duration_N = np.ones(at_least, bool), np.full(at_least, length_s)
    onset_N, duration_N = onset_N[kept], duration_N[kept]
    return onset_N, np.minimum(duration_N, n_seconds - onset_N)


# Shapes.


def bump(t_S: ArrayLike, center: ArrayLike, rise: ArrayLike, fall: ArrayLike) -> FloatArray:
    """Return a lopsided bell of peak 1 at `center`; arguments broadcast."""
    # In single precision throughout: sessions are long.
    offset = np.asarray(t_S, np.float32) - np.asarray(center, np.float32)
    width = np.where(offset < 0, np.asarray(rise, np.float32), np.asarray(fall, np.float32))
    bell: FloatArray = np.exp(-((offset / width) ** 2))
    return bell


def fade(n_times: int, sfreq_hz: int, *, in_s: float, out_s: float) -> FloatArray:
    """Return an envelope `[S]` of 1 with smooth ends, each at most half of it."""
    envelope = np.ones(n_times, np.float32)
    for seconds, part in ((in_s, envelope), (out_s, envelope[::-1])):
        n_ramp = min(n_times // 2, round(seconds * sfreq_hz))
        part[:n_ramp] *= 0.5 - 0.5 * np.cos(np.pi * (np.arange(n_ramp) + 0.5) / max(1, n_ramp))
    return envelope


def noise(
    rng: np.random.Generator, n_times: int, sfreq_hz: int, *, center_hz: float, width_hz: float
) -> FloatArray:
    """Return narrow-band noise `[S]` of unit RMS, of any length."""
    # A short one is cut out of a longer one, or it would hold too few frequencies.
    return band_noise(
        rng, center_hz=center_hz, width_hz=width_hz, n_times=max(n_times, 4 * sfreq_hz),
        sfreq_hz=sfreq_hz,
    )[:n_times]  # fmt: skip


def cycles(
    rng: np.random.Generator,
    n_times: int,
    sfreq_hz: int,
    *,
    first_hz: float,
    last_hz: float,
    jitter: float = 0.04,
) -> FloatArray:
    """Return the phase `[S]`, in cycles, of a rhythm that glides from one frequency to another."""
    course_S = np.linspace(math.log(first_hz), math.log(last_hz), n_times)
    wander_S = jitter * noise(rng, n_times, sfreq_hz, center_hz=0.5, width_hz=0.4)
    phase: FloatArray = (np.cumsum(np.exp(course_S + wander_S)) / sfreq_hz).astype(np.float32)
    return phase


def spike_wave(phase_S: FloatArray) -> FloatArray:
    """Return spike-and-wave complexes, one a cycle, of peak -1."""
    part_S = phase_S % 1
    wave_S = np.sin(np.pi * ((part_S - 0.24) / 0.76).clip(0, 1)) ** 2
    spike_S = bump(part_S, 0.11, 0.035, 0.045)
    return (0.45 * bump(part_S, 0.2, 0.04, 0.06) - spike_S - 0.9 * wave_S).astype(np.float32)


def polymorphic(
    rng: np.random.Generator, n_times: int, sfreq_hz: int, *, center_hz: float
) -> FloatArray:
    """Return irregular slow activity `[S]`, faster riding on slower; few waves pass 1."""
    n_drawn = max(n_times, 4 * sfreq_hz)
    ratio_F = np.arange(int(4.2 * center_hz * n_drawn / sfreq_hz)) * sfreq_hz / n_drawn / center_hz
    psd_F = np.exp(-(((ratio_F - 1) / 0.3) ** 2)) + 0.06 * np.exp(-(((ratio_F - 2.4) / 0.6) ** 2))
    psd_F[0] = 0
    mixed_S = shaped_noise(rng, psd_F=psd_F, n_times=n_drawn, sfreq_hz=sfreq_hz)[:n_times]
    mixed_S *= fade(n_times, sfreq_hz, in_s=0.6, out_s=0.6)
    # A short bout may hold no large wave by chance.
    scale = max(2.2 * float(mixed_S.std()), 0.7 * float(np.abs(mixed_S).max()))
    return (mixed_S / scale).astype(np.float32)


def lay(scene: Scene, group: Events, waveforms_NS: FloatArray, *, lag: int = 0) -> FloatArray:
    """Return a track `[S]` with the waveform of each event at its onset, times its amplitude."""
    waveforms_NS = waveforms_NS * group.amplitude_uv[:, None].astype(np.float32)
    n_wave = waveforms_NS.shape[1]
    track_S = np.zeros(scene.n_times + n_wave + lag, np.float32)
    for first, waveform_S in zip((scene.samples(group) + lag).tolist(), waveforms_NS, strict=True):
        track_S[first : first + n_wave] += waveform_S
    return track_S[: scene.n_times]


def uneven(rng: np.random.Generator, topography_E: FloatArray, *, sd: float = 0.12) -> FloatArray:
    """Return a topography as one event has it: no two are seen quite alike."""
    factor_E = 1 + sd * rng.standard_normal(len(topography_E), dtype=np.float32)
    return topography_E * factor_E


def rows(topography_E: FloatArray) -> list[FloatArray]:
    """Split a topography into rows of electrodes from front to back, which sum to it."""
    y_E = np.array([POSITIONS[name][1] for name in ELECTRODES])
    hats = np.eye(len(_ROWS_Y))
    return [
        (topography_E * np.interp(y_E, _ROWS_Y[::-1], hat[::-1])).astype(np.float32) for hat in hats
    ]
