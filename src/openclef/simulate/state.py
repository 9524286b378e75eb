"""The state of a session's EEG: what all causes do to its traits and findings."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import numpy as np

from openclef.simulate.findings import PATTERNS
from openclef.simulate.parameters import Cause, Hospital, Setting
from openclef.simulate.patients import BadKind, Effect, Finding, Region, Side
from openclef.simulate.traits import TRAITS
from openclef.types import CHANNELS

# Part of the variance of a healthy trait that stays with the patient.
_STABLE = 0.7
_SLEEPIER: dict[Setting, float] = {"ltm": 0.9, "emu": 0.9, "icu": -0.3}
# The EEG of intensive care is larger and slower, for all that is not in the table of causes, and
# varies more in size.
_ICU_LARGER = {"background_uv": 2.0, "delta_uv": 3.5, "theta_uv": 2.4}
_ICU_SIZE_SD = 0.35
# What a comatose brain does not do, and what excludes one another.
_WITHOUT_RHYTHM = ("burst_suppression",)
_INSTEAD_OF = {"triphasic": ("gpd",), "bipd": ("lpd",), "status": ("seizure",)}
# An EEG with these is not one of low voltage.
_LARGE = ("generalized_slowing", "status", "seizure", "lpd", "gpd", "bipd", "triphasic", "grda")


def effects_of(name: str, cause: Cause, *, weight: float) -> list[Effect]:
    """What one cause does, at a part of its strength."""
    return [
        *(Effect(name, "trait", trait, weight * z) for trait, z in cause.traits.items()),
        *(
            Effect(name, "finding", finding, 1 - (1 - p) ** weight)
            for finding, p in cause.findings.items()
        ),
        *(Effect(name, "rate", finding, factor**weight) for finding, factor in cause.rates.items()),
    ]


def draw_findings(
    rng: np.random.Generator,
    hospital: Hospital,
    effects: Collection[Effect],
    *,
    thresholds: Mapping[str, float],
    setting: Setting,
    side: Side,
    region: Region,
) -> dict[str, Finding]:
    """Draw the findings of a session; thresholds: of each, uniform, what stays with the patient."""
    present: dict[str, Finding] = {}
    for name, pattern in PATTERNS.items():
        strength, rate = rng.lognormal(0, 0.25), rng.lognormal(0, 0.45)
        spared = 1.0
        if name in hospital.findings:
            base = hospital.findings[name]
            spared = (1 - base.probability) * (1 - base.settings.get(setting, 0.0))
        for effect in effects:
            if effect.target == name and effect.kind == "finding":
                spared *= 1 - effect.value
            elif effect.target == name and effect.kind == "rate":
                rate *= effect.value
        if thresholds[name] < 1 - spared:
            where = (side, region) if pattern.lateral else (None, None)
            present[name] = Finding(float(strength), float(rate), *where)
    for name, others in _INSTEAD_OF.items():
        if name in present:
            for other in others:
                present.pop(other, None)
    if present.keys() & set(_LARGE):
        present.pop("low_voltage", None)
    if present.keys() & set(_WITHOUT_RHYTHM):
        present.setdefault("absent_pdr", Finding(1.0, 1.0))
    return present


def draw_levels(
    rng: np.random.Generator,
    effects: Collection[Effect],
    *,
    scores: Mapping[str, float],
    setting: Setting,
    age: float,
) -> dict[str, float]:
    """Draw the value of each trait; scores: the patient's own, standard normal."""
    shift = dict.fromkeys(TRAITS, 0.0)
    for effect in effects:
        if effect.kind == "trait":
            shift[effect.target] += effect.value
    shift["sleep_drive"] += _SLEEPIER.get(setting, 0.0)
    today = rng.standard_normal(len(TRAITS)).tolist()
    levels = {}
    for (name, trait), z in zip(TRAITS.items(), today, strict=True):
        score = math.sqrt(_STABLE) * scores[name] + math.sqrt(1 - _STABLE) * z
        levels[name] = trait.value(score + shift[name], age=max(age, 16.0))
    if setting == "icu":
        size = float(rng.lognormal(0, _ICU_SIZE_SD))
        for name, factor in _ICU_LARGER.items():
            levels[name] *= factor * size
    # The rhythms of children are slower and larger until about 16.
    young = max(0.0, 16 - age)
    levels["pdr_hz"] -= 0.25 * young
    for name in ("theta_uv", "delta_uv"):
        levels[name] *= 1 + 0.08 * young
    return levels


def draw_bad_channels(rng: np.random.Generator, *, setting: Setting) -> dict[str, BadKind]:
    """Draw what is wrong with which electrode."""
    n_bad = min(3, int(rng.poisson(0.8 if setting == "icu" else 0.25)))
    names = rng.choice(len(CHANNELS), size=n_bad, replace=False)
    odds: dict[BadKind, float] = {"flat": 0.2, "noisy": 0.35, "popping": 0.3, "bridged": 0.15}
    kinds, weights = list(odds), np.array(list(odds.values()))
    return {CHANNELS[row]: kinds[int(rng.choice(len(kinds), p=weights))] for row in names}
