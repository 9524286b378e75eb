"""The rhythms of the brain that are always there: background, alpha, mu, beta, theta, delta.

Each is noise of its own spectrum from a few patches of cortex, whose size follows the course:
alpha blocks with open eyes and goes with sleep, slow waves come with it, overbreathing slows.
Levels in uV are the RMS at the electrode that sees most of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from openclef.simulate.eeg.course import (
    COMA,
    N1,
    N2,
    N3,
    PHOTIC_UV,
    REM,
    WAKE,
    Course,
    hyperventilation_uv,
)
from openclef.simulate.eeg.events import Events, of_kind
from openclef.simulate.eeg.head import ELECTRODES, POSITIONS, Place, topography
from openclef.simulate.eeg.noise import arched_noise, shaped_noise, waxing
from openclef.simulate.eeg.scene import Scene
from openclef.simulate.patients import Session
from openclef.types import CHANNELS, FloatArray

Patch = tuple[float, float, float]

_KNEE_HZ = 0.7
# Patches that a reference spreads to all channels, over those under one channel.
_COMMON = 2.1
# What diffuse rhythms come from: left, right, front and back of the head, in part independent.
_FRONTAL: tuple[Patch, ...] = ((-0.3, 0.55, 0.45), (0.3, 0.55, 0.45), (0.0, 0.15, 0.6))
_DIFFUSE: tuple[Patch, ...] = (
    (-0.45, 0.35, 0.4), (0.45, 0.35, 0.4), (-0.5, -0.35, 0.4), (0.5, -0.35, 0.4),
)  # fmt: skip
_THETA: tuple[Patch, ...] = ((0.0, 0.35, 0.4), (-0.6, -0.2, 0.35), (0.6, -0.2, 0.35))
# Waves of sleep and overbreathing are much the same on both sides, and largest in front.
_GENERALIZED: tuple[Patch, ...] = (
    (0.0, 0.45, 0.9), (0.0, 0.15, 0.8), (-0.45, 0.0, 0.5), (0.45, 0.0, 0.5),
)  # fmt: skip
_DIFFUSE_BETA = Place(None, "diffuse", 0.0, 0.2, 0.8)
# A brain that makes these has little of its own rhythm left.
_ENCEPHALOPATHIC = ("triphasic", "gpd", "bipd", "status")
# Bouts of it take some 20 s, pauses a third of that.
_BETA_BOUT_S, _BETA_PAUSE_S, _BETA_PEAK_UV = 20, 7, 30


def add(scene: Scene, events: Iterable[Events], rng: np.random.Generator) -> None:
    """Add all ongoing activity.

    Parameters
    ----------
    scene : Scene
        The signal so far; session and course say what state the brain is in.
    events : iterable of Events
        Trains of flashes, bouts of diffuse beta, and what alpha gives way to are taken from it.
    rng : Generator
        Randomness.
    """
    events = list(events)
    parts: tuple[Callable[[Scene, np.random.Generator], None], ...] = (
        _add_aperiodic, partial(_add_alpha, events=events), _add_mu, _add_slow,
        _add_hyperventilation,
    )  # fmt: skip
    *own, of_beta, of_flashes = rng.spawn(len(parts) + 2)
    for part, of_part in zip(parts, own, strict=True):
        part(scene, of_part)
    _add_beta(scene, of_beta, of_kind(events, "diffuse_beta"))
    _add_driving(scene, of_flashes, of_kind(events, "photic"))


def draw_diffuse_beta(rng: np.random.Generator, session: Session, course: Course) -> list[Events]:
    """Draw bouts of diffuse beta, in any state but deep sleep, if the session has the finding."""
    if "diffuse_beta" not in session.findings:
        return []
    finding = session.findings["diffuse_beta"]
    n_bouts = int(3 * course.n_seconds / (_BETA_BOUT_S + _BETA_PAUSE_S)) + 3
    pauses = rng.exponential(_BETA_PAUSE_S / finding.rate, n_bouts)
    lengths = rng.lognormal(math.log(_BETA_BOUT_S), 0.5, n_bouts)
    onsets = np.cumsum(pauses + lengths) - lengths
    inside = onsets < course.n_seconds - 1
    onsets, lengths = onsets[inside], lengths[inside]
    if not len(onsets):
        onsets, lengths = np.zeros(1), np.full(1, float(course.n_seconds))
    awake = course.stage[onsets.astype(int)] != N3
    return [
        Events.of(
            "diffuse_beta", _DIFFUSE_BETA, onsets[awake],
            duration_s=np.minimum(lengths, course.n_seconds - onsets)[awake],
            amplitude_uv=_BETA_PEAK_UV * finding.strength, frequency_hz=rng.uniform(16, 22),
        )
    ]  # fmt: skip


def covered(events: Events, n_seconds: int) -> NDArray[np.float64]:
    """Return `[T]`: which part of each second lies within the events."""
    edges_T = np.arange(n_seconds + 1)
    before_T = np.zeros(n_seconds + 1)
    for sign, unsorted_N in ((1, events.onset_s), (-1, events.onset_s + events.duration_s)):
        times_N = np.sort(unsorted_N)
        n_past_T = np.searchsorted(times_N, edges_T)
        # How long all that is past is past, summed.
        before_T += sign * (n_past_T * edges_T - np.append(0, np.cumsum(times_N))[n_past_T])
    return np.maximum(0, np.diff(before_T).round(6))


def _add_rhythm(
    scene: Scene,
    rng: np.random.Generator,
    uv_T: ArrayLike,
    patches: Sequence[Patch],
    *,
    center_hz: float,
    width_hz: float,
    depth: float = 0.5,
    time_constant_s: float = 5.0,
) -> None:
    """Add noise about one frequency, independent in each patch, each waxing for itself."""
    topographies_KE = np.stack([topography(*patch) for patch in patches])
    scale = 1 / np.sqrt((topographies_KE[:, : len(CHANNELS)] ** 2).sum(axis=0).max())
    for topography_E in topographies_KE:
        factor_T = waxing(
            rng, n_seconds=scene.course.n_seconds, time_constant_s=time_constant_s, depth=depth
        )
        rhythm = scene.rhythm(rng, center_hz, width_hz)
        rhythm *= scene.curve(scale * factor_T * uv_T)
        scene.add(rhythm, topography_E)


def _add_aperiodic(scene: Scene, rng: np.random.Generator) -> None:
    """Add 1/f noise of the individual's exponent from a patch under each electrode."""
    levels, course = scene.levels, scene.course
    freqs_F = np.arange(scene.n_times // 2 + 1) * (scene.sfreq_hz / scene.n_times)
    psd_F = (_KNEE_HZ**2 + freqs_F**2) ** (-levels["exponent"] / 2)
    psd_F[0] = 0
    in_band_F = (freqs_F >= 1) & (freqs_F <= 40)
    psd_F /= psd_F[in_band_F].sum() * scene.sfreq_hz / scene.n_times
    # Those under the ears are what a reference there adds to all channels; the last is common to
    # the whole head.
    patches = [(*POSITIONS[name], 0.08) for name in ELECTRODES] + [(0.0, 0.0, 1.0)]
    topographies_KE = np.stack([topography(*patch) for patch in patches])
    topographies_KE /= topographies_KE.max(axis=1, keepdims=True)
    topographies_KE *= rng.lognormal(0, 0.35, (len(patches), 1)).astype(np.float32)
    topographies_KE[len(CHANNELS) : len(ELECTRODES)] *= _COMMON
    power_E = (topographies_KE**2).sum(axis=0)
    uv = levels["background_uv"] / math.sqrt(power_E[: len(CHANNELS)].mean())
    quieter_T = 0.25 * course.share(N2, N3, REM) + 0.4 * course.share(COMA)
    factor_T = waxing(rng, n_seconds=course.n_seconds, time_constant_s=3, depth=0.2)
    size = scene.curve(uv * (1 - quieter_T) * factor_T)
    for topography_E in topographies_KE:
        noise = shaped_noise(rng, psd_F=psd_F, n_times=scene.n_times, sfreq_hz=scene.sfreq_hz)
        noise *= size
        scene.add(noise, topography_E)


def _add_alpha(scene: Scene, rng: np.random.Generator, *, events: Iterable[Events]) -> None:
    """Add the posterior dominant rhythm: larger on the right, blocked by open eyes and sleep.

    It gives way to seizures and runs of spike-wave.
    """
    levels, course = scene.levels, scene.course
    opened_T = 1 - course.eyes_closed
    size_T = course.share(WAKE) * (1 - levels["reactivity"] * opened_T) + 0.15 * course.share(N1)
    size_T = size_T * levels["alpha_uv"] * np.exp(np.clip(course.vigilance, -1, 1))
    for group in of_kind(events, "spike_wave", "seizure", "status"):
        size_T = size_T * (1 - np.minimum(1, covered(group, course.n_seconds)))
    findings = scene.session.findings
    if "absent_pdr" in findings:
        size_T = size_T * 0.08
    elif any(name in findings for name in _ENCEPHALOPATHIC):
        size_T = size_T * 0.25
    anterior = 0.55 * math.exp(-0.25 * levels["gradient"])
    left, right = topography(-0.3, -0.85, 0.45), topography(0.3, -0.85, 0.45)
    sources: tuple[tuple[FloatArray, float], ...] = (
        (0.9 * left + right, 0.75), (left, 0.45), (right, 0.55),
        (topography(0.0, -0.5, 0.5), 0.5), (topography(0.0, 0.35, 0.7), anterior),
    )  # fmt: skip
    topographies_KE = np.stack([share * topography_E for topography_E, share in sources])
    posterior = np.sqrt((topographies_KE[:, : len(CHANNELS)] ** 2).sum(axis=0).max())
    time_constant_s = levels["alpha_spindle_s"]
    # Sources wax together, as the course has it, and, less, each for itself.
    for number, topography_E in enumerate(topographies_KE):
        own_T = waxing(rng, n_seconds=course.n_seconds, time_constant_s=time_constant_s, depth=0.2)
        hz = levels["pdr_hz"] - (0.4 if number == len(sources) - 1 else 0.0)
        rhythm = _arched(scene, rng, hz, 0.95, 0.15) if number == 0 else scene.rhythm(rng, hz, 0.95)
        rhythm *= scene.curve(size_T * course.alpha * own_T / posterior)
        scene.add(rhythm, topography_E)


def _add_mu(scene: Scene, rng: np.random.Generator) -> None:
    """Add the arch-shaped rhythm of each hand area, which open eyes leave alone."""
    course = scene.course
    size_T = scene.levels["mu_uv"] * (course.share(WAKE) + 0.3 * course.share(N1))
    hz = scene.levels["pdr_hz"] + rng.normal(0.0, 0.4)
    for x in (-0.5, 0.5):
        rhythm = _arched(scene, rng, hz, 0.6, 0.45)
        factor_T = waxing(rng, n_seconds=course.n_seconds, time_constant_s=6, depth=0.7)
        rhythm *= scene.curve(size_T * factor_T)
        scene.add(rhythm, topography(x, 0.0, 0.25))


def _arched(
    scene: Scene, rng: np.random.Generator, center_hz: float, width_hz: float, arch: float
) -> FloatArray:
    return arched_noise(
        rng, center_hz=center_hz, width_hz=width_hz, arch=arch, n_times=scene.n_times,
        sfreq_hz=scene.sfreq_hz,
    )  # fmt: skip


def _add_beta(scene: Scene, rng: np.random.Generator, excess: Sequence[Events]) -> None:
    """Add frontocentral beta, and bouts of diffuse beta over all of the head."""
    course = scene.course
    size_T = 1 - 0.5 * course.share(N2, N3) - 0.2 * course.share(REM) - 0.7 * course.share(COMA)
    _add_rhythm(
        scene, rng, scene.levels["beta_uv"] * size_T,
        (*_FRONTAL, (-0.5, -0.3, 0.5), (0.5, -0.3, 0.5)), center_hz=18.5, width_hz=3.5,
    )  # fmt: skip
    for bouts in excess:
        # Peaks of noise are some three times its RMS.
        size_T = covered(bouts, course.n_seconds) * bouts.amplitude_uv[0] / 3
        _add_rhythm(
            scene, rng, size_T, _DIFFUSE, center_hz=bouts.frequency_hz[0], width_hz=1.8,
            depth=0.25,
        )  # fmt: skip


def _add_slow(scene: Scene, rng: np.random.Generator) -> None:
    """Add theta and delta of wakefulness, and those that replace all else in sleep and coma."""
    levels, course = scene.levels, scene.course
    n1_T, n2_T, n3_T = course.share(N1), course.share(N2), course.share(N3)
    rem_T, coma_T = course.share(REM), course.share(COMA)
    awake_T = 1 - n2_T - n3_T - rem_T - coma_T
    sleepy_T = np.exp(np.clip(-course.vigilance, -1, 1))
    theta_T = levels["theta_uv"] * sleepy_T * (awake_T + 1.2 * n1_T)
    delta_T = levels["delta_uv"] * (awake_T + 0.3 * n1_T)
    _add_rhythm(scene, rng, theta_T, _THETA, center_hz=5.6, width_hz=1.3)
    _add_rhythm(scene, rng, delta_T, _DIFFUSE, center_hz=2.0, width_hz=0.9)
    if not awake_T.all():
        # Slow waves of sleep are largest in the young.
        young = math.exp(-0.012 * (scene.session.age - 25))
        for center_hz, width_hz, uv_T in (
            (5.0, 1.2, 6 * n2_T + 7 * n3_T + 5 * rem_T + 10 * coma_T),
            (1.9, 0.7, young * (11 * n2_T + 24 * n3_T) + 4.5 * rem_T + 26 * coma_T),
            (0.85, 0.3, young * (8 * n2_T + 36 * n3_T) + 20 * coma_T),
        ):
            _add_rhythm(
                scene, rng, uv_T, _GENERALIZED, center_hz=center_hz, width_hz=width_hz, depth=0.35
            )


def _add_hyperventilation(scene: Scene, rng: np.random.Generator) -> None:
    """Add the theta, then delta, that overbreathing builds up, most in the young."""
    depth_T = scene.course.hyperventilation
    if not depth_T.any():
        return
    uv = hyperventilation_uv(scene.session)
    # Theta first; delta in runs once it is deep.
    _add_rhythm(scene, rng, uv * depth_T, _GENERALIZED[:2], center_hz=5.0, width_hz=0.8)
    _add_rhythm(
        scene, rng, 1.4 * uv * depth_T**2, _GENERALIZED[:2], center_hz=2.8, width_hz=0.5, depth=0.6
    )


def _add_driving(scene: Scene, rng: np.random.Generator, flashes: Sequence[Events]) -> None:
    """Add responses to flashes: the rate and its double, strongest near the own rhythm."""
    topography_E = topography(-0.25, -0.95, 0.4) + topography(0.25, -0.95, 0.4)
    topography_E = topography_E / np.abs(topography_E).max()
    for trains in flashes:
        hz = float(trains.frequency_hz[0])
        for onset, duration_s in zip(scene.samples(trains), trains.duration_s, strict=True):
            t = np.arange(int(duration_s * scene.sfreq_hz)) / scene.sfreq_hz
            response = np.zeros(len(t))
            for multiple, share in ((1, 1.0), (2, 0.6)):
                octaves = math.log2(multiple * hz / scene.levels["pdr_hz"])
                size = share * math.exp(-0.5 * (octaves / 0.7) ** 2)
                response += size * np.cos(2 * np.pi * multiple * hz * t + rng.uniform(0, 6.3))
            # It takes a while to build up, and is not the same in each train.
            response *= np.minimum(1, t / 0.7) * rng.lognormal(0, 0.2)
            uv = PHOTIC_UV * scene.levels["photic_drive"]
            scene.add_short(int(onset), (uv * response).astype(np.float32), topography_E)
