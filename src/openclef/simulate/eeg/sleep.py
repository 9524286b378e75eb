"""The waves of sleep: spindles, K-complexes, vertex waves, POSTS, arousals, sawtooth waves.

Slow waves are part of the background; `diffuse_beta` is drawn here and made there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from openclef.simulate.eeg.background import draw_diffuse_beta
from openclef.simulate.eeg.course import N1, N2, N3, REM, Course
from openclef.simulate.eeg.events import Events, Times, of_kind
from openclef.simulate.eeg.head import Place
from openclef.simulate.eeg.noise import poisson_onsets
from openclef.simulate.eeg.scene import Scene
from openclef.simulate.patients import Session

_CENTRAL = Place(None, "central", 0.0, -0.1, 0.45)
_FRONTAL = Place(None, "frontal", 0.0, 0.45, 0.45)
_FRONTOCENTRAL = Place(None, "central", 0.0, 0.25, 0.55)
_VERTEX = Place(None, "central", 0.0, 0.0, 0.35)
_OCCIPITAL = Place(None, "occipital", 0.0, -1.0, 0.35)
_DIFFUSE = Place(None, "diffuse", 0.0, -0.3, 1.0)
# Frontal spindles are slower than central ones; which share they are.
_SLOWER_HZ, _FRONTAL_SHARE = 1.5, 0.4
# Spindles come in a slow rhythm of their own.
_SPINDLE_PERIOD_S = 50
_FOLLOWED_BY_SPINDLE = 0.4


def draw(rng: np.random.Generator, session: Session, course: Course) -> list[Events]:
    """Draw all waves of sleep.

    Parameters
    ----------
    rng : Generator
        Randomness.
    session : Session
        Levels and findings.
    course : Course
        When there is sleep, and arousals, which neither spindles nor K-complexes outlast.

    Returns
    -------
    list of Events
        Kinds `spindle`, `k_complex`, `vertex_wave`, `posts`, `arousal`, `sawtooth`,
        `diffuse_beta`.
    """
    of_arousals, of_k, of_spindles, of_vertex, of_posts, of_rem, of_beta = rng.spawn(7)
    arousals = _draw_arousals(of_arousals, session, course)
    k_complexes = _undisturbed(_draw_k_complexes(of_k, session, course), arousals)
    spindles = _draw_spindles(of_spindles, session, course, k_complexes)
    return [
        arousals,
        k_complexes,
        *(_undisturbed(group, arousals) for group in spindles),
        _draw_vertex_waves(of_vertex, session, course),
        _draw_posts(of_posts, session, course),
        _draw_sawtooth(of_rem, course),
        *draw_diffuse_beta(of_beta, session, course),
    ]


def _onsets(rng: np.random.Generator, rate_min_T: NDArray[np.floating]) -> Times:
    return poisson_onsets(rng, rate_hz_T=rate_min_T / 60, sfreq_hz=1000) / 1000


def _undisturbed(events: Events, arousals: Events) -> Events:
    """Leave out what begins within an arousal."""
    last = np.searchsorted(arousals.onset_s, events.onset_s, side="right") - 1
    ends = np.append(arousals.onset_s + arousals.duration_s, -np.inf)
    return events.those(events.onset_s >= ends[last])


def _draw_arousals(rng: np.random.Generator, session: Session, course: Course) -> Events:
    onsets = course.arousals_s
    return Events.of(
        "arousal", _DIFFUSE, onsets,
        duration_s=np.clip(rng.lognormal(math.log(6), 0.4, len(onsets)), 3, 15),
        amplitude_uv=25 * rng.lognormal(0, 0.25, len(onsets)),
        frequency_hz=session.levels["pdr_hz"] - 1,
    )  # fmt: skip


def _draw_k_complexes(rng: np.random.Generator, session: Session, course: Course) -> Events:
    onsets = _onsets(rng, session.levels["k_complexes_min"] * course.share(N2))
    return Events.of(
        "k_complex", _FRONTOCENTRAL, onsets,
        duration_s=rng.uniform(0.7, 1.2, len(onsets)),
        amplitude_uv=120 * rng.lognormal(0, 0.25, len(onsets)),
    )  # fmt: skip


def _draw_spindles(
    rng: np.random.Generator, session: Session, course: Course, k_complexes: Events
) -> list[Events]:
    levels = session.levels
    angle = 2 * np.pi * np.arange(course.n_seconds) / _SPINDLE_PERIOD_S + rng.uniform(0, 6.3)
    asleep_T = course.share(N2) + 0.15 * course.share(N3)
    onsets = _onsets(rng, levels["spindles_min"] * asleep_T * (1 + 0.7 * np.cos(angle)))
    # How many follow a K-complex depends on how ready this brain is to spindle.
    p_follows = min(0.8, _FOLLOWED_BY_SPINDLE * levels["spindles_min"] / 4.5)
    follows = rng.random(len(k_complexes)) < p_follows
    onsets = np.append(onsets, (k_complexes.onset_s + 0.8 * k_complexes.duration_s)[follows])
    onsets = np.sort(onsets[onsets < course.n_seconds - 0.5])
    # Each spindle has an end before the next begins.
    onsets = onsets[np.diff(onsets, prepend=-np.inf) > levels["spindle_s"]]
    is_frontal = rng.random(len(onsets)) < _FRONTAL_SHARE
    groups = []
    for place, chosen, slower_hz, uv in (
        (_CENTRAL, ~is_frontal, 0.0, 27), (_FRONTAL, is_frontal, _SLOWER_HZ, 23),
    ):  # fmt: skip
        n = int(chosen.sum())
        groups.append(
            Events.of(
                "spindle", place, onsets[chosen],
                duration_s=np.clip(levels["spindle_s"] * rng.lognormal(0, 0.2, n), 0.4, 3),
                amplitude_uv=uv * rng.lognormal(0, 0.25, n),
                frequency_hz=levels["spindle_hz"] - slower_hz + rng.normal(0, 0.25, n),
            )
        )  # fmt: skip
    return groups


def _draw_vertex_waves(rng: np.random.Generator, session: Session, course: Course) -> Events:
    rate_T = session.levels["vertex_min"] * (course.share(N1) + 0.4 * course.share(N2))
    onsets = _in_trains(rng, _onsets(rng, 0.6 * rate_T), more=0.67, apart_s=(0.6, 1.8))
    onsets = onsets[onsets < course.n_seconds - 0.5]
    return Events.of(
        "vertex_wave", _VERTEX, onsets,
        duration_s=rng.uniform(0.18, 0.32, len(onsets)),
        amplitude_uv=75 * rng.lognormal(0, 0.3, len(onsets)),
    )  # fmt: skip


def _draw_posts(rng: np.random.Generator, session: Session, course: Course) -> Events:
    finding = session.findings.get("posts")
    onsets = np.zeros(0)
    if finding:
        rate_T = 6 * finding.rate * (course.share(N2) + 0.6 * course.share(N1))
        onsets = _in_trains(rng, _onsets(rng, rate_T), more=1.2, apart_s=(0.2, 0.35))
        onsets = onsets[onsets < course.n_seconds - 0.3]
    return Events.of(
        "posts", _OCCIPITAL, onsets,
        duration_s=rng.uniform(0.15, 0.25, len(onsets)),
        amplitude_uv=(45 * finding.strength if finding else 0) * rng.lognormal(0, 0.2, len(onsets)),
    )  # fmt: skip


def _draw_sawtooth(rng: np.random.Generator, course: Course) -> Events:
    onsets = _onsets(rng, 1.0 * course.share(REM))
    return Events.of(
        "sawtooth", _FRONTOCENTRAL, onsets,
        duration_s=rng.uniform(2, 5, len(onsets)),
        amplitude_uv=30 * rng.lognormal(0, 0.2, len(onsets)),
        frequency_hz=rng.uniform(2.2, 4, len(onsets)),
    )  # fmt: skip


def _in_trains(
    rng: np.random.Generator, first_s: Times, *, more: float, apart_s: tuple[float, float]
) -> Times:
    """Each onset begins a train: `more` further ones on average, so far apart."""
    counts_N = 1 + rng.poisson(more, len(first_s))
    start_s = np.repeat(first_s, counts_N)
    gaps_s = rng.uniform(*apart_s, len(start_s))
    heads = np.cumsum(counts_N) - counts_N
    since_s = np.cumsum(gaps_s)
    return np.sort(start_s + since_s - np.repeat(since_s[heads], counts_N))


def add(scene: Scene, events: Iterable[Events], rng: np.random.Generator) -> None:
    """Add the waves of sleep that `draw` drew.

    Parameters
    ----------
    scene : Scene
        The signal so far.
    events : iterable of Events
        All events of the session.
    rng : Generator
        Phases and shapes.
    """
    events = list(events)
    for group in of_kind(events, *_WAVEFORMS):
        assert group.place is not None  # what is seen at electrodes has a place
        waveform = _WAVEFORMS[group.kind]
        for row, onset in enumerate(scene.samples(group)):
            n_samples = max(2, int(group.duration_s[row] * scene.sfreq_hz))
            wave = waveform(
                rng, np.linspace(0, 1, n_samples), float(group.duration_s[row]),
                float(group.frequency_hz[row]),
            )  # fmt: skip
            uv = group.amplitude_uv[row] / np.abs(wave).max()
            scene.add_short(int(onset), (uv * wave).astype(np.float32), group.place.topography)


# Waveforms: u runs from 0 to 1 over the event; sizes are set by the caller. Cortical waves that
# surface-negative cells make point down in uV, and up on the page of a reader.


def _bump(u: NDArray[np.float64], at: float, width: float) -> NDArray[np.float64]:
    bump: NDArray[np.float64] = np.exp(-(((u - at) / width) ** 2))
    return bump


def _spindle(
    rng: np.random.Generator, u: NDArray[np.float64], duration_s: float, hz: float
) -> NDArray[np.float64]:
    # Spindles slow down a little; they wax faster than they wane.
    phase = 2 * np.pi * hz * duration_s * (u - 0.03 * u * (u - 1)) + rng.uniform(0, 6.3)
    wave: NDArray[np.float64] = np.sin(phase) * np.sin(np.pi * u**0.8) ** 1.5
    return wave


def _k_complex(
    rng: np.random.Generator, u: NDArray[np.float64], duration_s: float, hz: float
) -> NDArray[np.float64]:
    after = rng.uniform(0.45, 0.75)
    wave = 0.15 * _bump(u, 0.12, 0.05) - _bump(u, 0.28, 0.1) + after * _bump(u, 0.6, 0.17)
    return wave * np.minimum(1, 12 * (1 - u))


def _vertex_wave(
    rng: np.random.Generator, u: NDArray[np.float64], duration_s: float, hz: float
) -> NDArray[np.float64]:
    return 0.2 * _bump(u, 0.15, 0.1) - _bump(u, 0.4, 0.14) + 0.35 * _bump(u, 0.72, 0.15)


def _post(
    rng: np.random.Generator, u: NDArray[np.float64], duration_s: float, hz: float
) -> NDArray[np.float64]:
    # Like a check mark: up fast, down slowly.
    rise = np.where(u < 0.35, 0.13, 0.22)
    return np.exp(-(((u - 0.35) / rise) ** 2)) - 0.2 * _bump(u, 0.85, 0.08)


def _arousal(
    rng: np.random.Generator, u: NDArray[np.float64], duration_s: float, hz: float
) -> NDArray[np.float64]:
    t = u * duration_s
    wave = np.zeros(len(u))
    for factor, size in ((1.0, 1.0), (0.93, 0.7), (1.9, 0.4), (2.17, 0.3)):
        wave += size * np.sin(2 * np.pi * factor * hz * t + rng.uniform(0, 6.3))
    wave *= np.minimum(1, np.minimum(t / 0.5, (duration_s - t) / 1.5))
    return wave


def _sawtooth(
    rng: np.random.Generator, u: NDArray[np.float64], duration_s: float, hz: float
) -> NDArray[np.float64]:
    turns = hz * duration_s * u
    ramp = 2 * (turns % 1) - 1
    smooth = np.convolve(ramp, np.ones(5) / 5, mode="same") if len(ramp) > 5 else ramp
    wave: NDArray[np.float64] = smooth * np.sin(np.pi * u)
    return wave


_Waveform = Callable[
    [np.random.Generator, NDArray[np.float64], float, float], NDArray[np.float64]
]  # fmt: skip
_WAVEFORMS: dict[str, _Waveform] = {
    "spindle": _spindle,
    "k_complex": _k_complex,
    "vertex_wave": _vertex_wave,
    "posts": _post,
    "arousal": _arousal,
    "sawtooth": _sawtooth,
}
