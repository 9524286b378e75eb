"""Signs: what a session shows, taken from its events, and what a reader makes of it.

A finding is there to be read only if its events are in this session. Readers miss it (more so
where it is rare, short or faint) and call what is not there (more so where something looks alike).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from openclef.clinical.findings import flag_name
from openclef.simulate.eeg.course import COMA, N1, N2, N3, REM, WAKE, Course
from openclef.simulate.eeg.events import Events, Times
from openclef.simulate.eeg.session import Truth
from openclef.simulate.findings import PATTERNS
from openclef.simulate.parameters import Noise
from openclef.simulate.patients import Session
from openclef.simulate.reports.dice import Dice
from openclef.types import CHANNELS

# What a reader names in its own right; the posterior rhythm and sleep are told apart from these.
READ = tuple(name for name in PATTERNS if name not in ("absent_pdr", "posts"))
FIGURES = {
    "spindles": "spindle", "vertex_wave": "vertex_wave", "k_complexes": "k_complex",
    "posts": "posts",
}  # fmt: skip
# What nobody overlooks for long.
UNMISTAKABLE = frozenset({"seizure", "status", "burst_suppression", "spike_wave", "triphasic"})
# A state or a figure of sleep is read if it lasts or occurs at least so often.
_LEAST_STATE_S = 10
_LEAST_SLEEP_S = 20
_LEAST_FIGURES = 3
# Signs called without any event: factor on the hospital's probability, and the probability that
# something that looks alike adds.
_OVERCALLED = {
    "sharp_waves": 3.0, "focal_slowing": 4.0, "generalized_slowing": 4.0, "grda": 2.0,
    "low_voltage": 3.0, "diffuse_beta": 4.0, "wicket": 2.0, "bets": 2.0, "seizure": 0.5,
    "burst_suppression": 0.3, "photoparoxysmal": 0.5, "triphasic": 0.5, "status": 0.1,
    "spike_wave": 0.5, "spikes": 1.0, "polyspikes": 0.3, "bipd": 0.1,
}  # fmt: skip
_LOOKS_LIKE_SPIKES = {"wicket": 0.08, "bets": 0.08}
_DROWSY_SHARE, _DROWSINESS_CALLED_SLOW = 0.25, 0.05
_BREACH_CALLED_SLOW = 0.08
_TREMOR_CALLED_SEIZURE = 0.01


@dataclass(frozen=True)
class Sign:
    """One pattern that a reader calls.

    pattern: name in `findings.PATTERNS`. sides: where it lies, empty if generalized. region,
    channels: of its first side. n: how many. share: of the session's seconds. per_min, uv, hz:
    rate, median peak and frequency (0 where there is none). context: what brings it out. faint:
    whether it is easily doubted. spells: onset and duration in seconds of what is told singly.
    """

    pattern: str
    is_real: bool
    sides: tuple[str, ...] = ()
    region: str | None = None
    channels: tuple[str, ...] = ()
    n: int = 1
    share: float = 0.0
    per_min: float = 0.0
    uv: float = 60.0
    hz: float = 0.0
    context: str | None = None
    faint: bool = False
    spells: tuple[tuple[float, float], ...] = ()

    @property
    def flags(self) -> tuple[str, ...]:
        """Names of the HEEDB flags that stating it sets."""
        flag = PATTERNS[self.pattern].flag
        own = () if flag is None else (flag_name(flag),)
        return ("seizure", *own) if self.pattern == "status" else own


@dataclass(frozen=True)
class Seen:
    """What a reader takes from a session.

    signs: by pattern. states: of `awake`, `n1`, `n2`, `n3`, `rem`, `coma`. figures: sleep
    figures, names of flags. pdr: whether there is a posterior rhythm; None if there was nothing
    to judge it by (no eyes closed in wakefulness). uninterpretable: artefact hides everything.
    """

    signs: Mapping[str, Sign]
    states: frozenset[str]
    figures: frozenset[str]
    pdr: bool | None
    uninterpretable: bool


def look(session: Session, truth: Truth) -> Seen:
    """Return what a reader without fault sees."""
    course = truth.course
    seconds = np.bincount(course.stage, minlength=COMA + 1)
    asleep_s = int(seconds[[N2, N3, REM]].sum())
    states = {
        "awake": seconds[WAKE] >= _LEAST_STATE_S,
        "n1": seconds[N1] >= _LEAST_STATE_S,
        "n2": asleep_s >= _LEAST_SLEEP_S,
        "n3": seconds[N3] >= _LEAST_SLEEP_S,
        "rem": seconds[REM] >= _LEAST_SLEEP_S,
        "coma": seconds[COMA] >= _LEAST_STATE_S,
    }
    figures = {
        name for name, kind in FIGURES.items() if sum(map(len, truth.of(kind))) >= _LEAST_FIGURES
    }
    signs = {name: _sign(name, session, truth) for name in READ if truth.of(name)}
    rests_s = int(((course.stage == WAKE) & (course.eyes_closed > 0.5)).sum())
    pdr = "absent_pdr" not in session.findings and not states["coma"]
    return Seen(
        signs,
        frozenset(name for name, is_reached in states.items() if is_reached),
        frozenset(figures),
        pdr if rests_s >= 5 or states["coma"] else None,
        uninterpretable=False,
    )


def true_flags(session: Session, truth: Truth) -> dict[str, bool]:
    """Return the flags that a reader without fault finds true or false, by name.

    Those of the verdict and of syndromes are not among them; `posterior_dominant_rhythm` is left
    out of a session that gives no occasion to see it.
    """
    seen = look(session, truth)
    flags = dict.fromkeys((flag_name(p.flag) for p in PATTERNS.values() if p.flag), False)
    flags |= {flag: True for sign in seen.signs.values() for flag in sign.flags}
    flags |= {name: name in seen.figures for name in FIGURES}
    flags |= {"awake": "awake" in seen.states, "n1": "n1" in seen.states}
    flags["sleep"] = "n2" in seen.states
    if seen.pdr is not None:
        flags["posterior_dominant_rhythm"] = seen.pdr
    return flags


def read(session: Session, truth: Truth, noise: Noise, dice: Dice) -> Seen:
    """Return what one reader sees: as `look`, with what is missed and what is over-called."""
    seen = look(session, truth)
    signs = {
        name: sign
        for name, sign in seen.signs.items()
        if not dice.chance(noise.missed * _difficulty(sign, session))
    }
    for name, probability in _tempting(seen, truth, noise).items():
        if name not in seen.signs and dice.chance(probability):
            signs[name] = _imagined(name, session, dice)
    states, figures = set(seen.states), set(seen.figures)
    asleep_s = int(np.isin(truth.course.stage, (N2, N3, REM)).sum())
    if "n2" in states and dice.chance(noise.missed * (2.5 if asleep_s < 120 else 0.5)):
        states -= {"n2", "n3", "rem"}
    elif "n2" not in states and "n1" in states and dice.chance(8 * noise.overcalled):
        states.add("n2")
    for name, kind in FIGURES.items():
        n = sum(map(len, truth.of(kind)))
        if name in figures and dice.chance(noise.missed * (2 if n < 10 else 0.7)):
            figures.discard(name)
        elif name not in figures and "n2" in states and dice.chance(4 * noise.overcalled):
            figures.add(name)
    if "n2" not in states:
        figures -= {"spindles", "k_complexes"}
    pdr = seen.pdr
    if pdr is not None and "coma" not in states:
        is_small = session.levels["alpha_uv"] < 5
        if dice.chance(noise.missed * (1.5 if is_small and pdr else 0.3)):
            pdr = not pdr
    n_bad = len(session.bad_channels)
    is_lost = dice.chance(0.003 + 0.01 * n_bad + 0.08 * (n_bad > 2))
    return Seen(signs, frozenset(states), frozenset(figures), pdr, is_lost)


def _sign(name: str, session: Session, truth: Truth) -> Sign:
    groups = truth.of(name)
    onset_s = np.concatenate([group.onset_s for group in groups])
    duration_s = np.concatenate([group.duration_s for group in groups])
    hz = np.concatenate([group.frequency_hz for group in groups])
    hz = hz[np.isfinite(hz)]
    uv = float(np.median(np.concatenate([group.amplitude_uv for group in groups])))
    spells = _joined(onset_s, duration_s)
    finding = session.findings[name]
    share = sum(duration for _, duration in spells) / session.duration_s
    first = min(groups, key=lambda group: group.onset_s[0])
    n = len(spells) if name in ("seizure", "status") else len(onset_s)
    amount = n / 10 + share * session.duration_s / 120
    return Sign(
        name,
        is_real=True,
        sides=_sides(groups, finding.side),
        region=finding.region,
        channels=_channels(first) if finding.side else (),
        n=n,
        share=min(1.0, share),
        per_min=60 * n / session.duration_s,
        uv=uv or 60.0,
        hz=float(np.median(hz)) if len(hz) else 0.0,
        context=_context(onset_s, truth.course),
        faint=finding.strength < 0.75 or amount < 0.4,
        spells=tuple(spells) if name in ("seizure", "status") else (),
    )


def _sides(groups: Sequence[Events], lesion: str | None) -> tuple[str, ...]:
    """Sides by how much happens there, that of the lesion first; none if it is generalized."""
    if lesion is None:
        return ()
    sides = {group.place.side for group in groups if group.place and group.place.side}
    return (lesion, *sorted(side for side in sides if side != lesion))


def _channels(group: Events) -> tuple[str, ...]:
    """The two electrodes nearest to the place."""
    if group.place is None:
        return ()
    names, weights = group.place.channels, group.place.topography
    if len(names) <= 2:
        return names
    strength = {name: abs(float(weights[CHANNELS.index(name)])) for name in names}
    return tuple(sorted(names, key=lambda name: -strength[name])[:2])


def _joined(onset_s: Times, duration_s: Times, *, gap_s: float = 2.0) -> list[tuple[float, float]]:
    """Union of intervals that overlap or nearly touch: onset and duration of each."""
    order = np.argsort(onset_s, kind="stable")
    onset, end = onset_s[order], np.maximum.accumulate((onset_s + duration_s)[order])
    starts = np.flatnonzero(np.append(True, onset[1:] > end[:-1] + gap_s))
    stops = np.append(starts[1:], len(onset)) - 1
    return list(zip(onset[starts].tolist(), (end[stops] - onset[starts]).tolist(), strict=True))


def _context(onset_s: Times, course: Course) -> str | None:
    """What most of the events fall into, beyond what its share of the session explains."""
    second = np.clip(onset_s.astype(int), 0, course.n_seconds - 1)
    asleep = np.isin(course.stage, (N1, N2, N3, REM))
    for name, inside in (
        ("photic", course.photic_hz > 0),
        ("hyperventilation", course.hyperventilation > 0.3),
        ("sleep", asleep),
        ("wakefulness", course.stage == WAKE),
    ):
        share = float(inside.mean())
        if 0 < share < 0.9 and inside[second].mean() > max(0.5, 1.4 * share):
            return name
    return None


def _difficulty(sign: Sign, session: Session) -> float:
    """Factor on the probability that it is missed, about 1 on average."""
    amount = sign.n / 10 + sign.share * session.duration_s / 120
    strength = session.findings[sign.pattern].strength
    ease = 0.5 if sign.pattern in UNMISTAKABLE else 1.0
    return ease * (0.9 + 2.4 / (1 + amount)) / strength


def _tempting(seen: Seen, truth: Truth, noise: Noise) -> dict[str, float]:
    """Probability that a sign is called though it is not there."""
    called = {name: noise.overcalled * _OVERCALLED.get(name, 1.0) for name in READ}
    for variant, probability in _LOOKS_LIKE_SPIKES.items():
        # Whoever calls a variant epileptiform does not call the spikes beside it something else.
        if variant in seen.signs and "spikes" not in seen.signs:
            called["sharp_waves"] += probability
    if float((truth.course.stage == N1).mean()) > _DROWSY_SHARE:
        called["generalized_slowing"] += _DROWSINESS_CALLED_SLOW
    if "breach" in seen.signs:
        called["focal_slowing"] += _BREACH_CALLED_SLOW
    if not truth.of("photic"):
        called["photoparoxysmal"] = 0.0
    if sum(map(len, truth.of("tremor"))) > 5:
        called["seizure"] += _TREMOR_CALLED_SEIZURE
    return called


def _imagined(name: str, session: Session, dice: Dice) -> Sign:
    is_lateral = PATTERNS[name].lateral
    start = float(round(dice.rng.random() * max(1, session.duration_s - 30)))
    n = 1 + int(3 * dice.rng.random())
    return Sign(
        name,
        is_real=False,
        sides=(dice.pick(("left", "right")),) if is_lateral else (),
        region=dice.weighted({"temporal": 3.0, "frontal": 1.0}) if is_lateral else None,
        n=n,
        share=0.02,
        per_min=60 * n / session.duration_s,
        hz=2.0 if name in ("lpd", "gpd", "lrda", "grda", "triphasic", "bipd") else 0.0,
        faint=True,
        spells=((start, 20.0),) if name in ("seizure", "status") else (),
    )
