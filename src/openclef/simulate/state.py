"""The state of a session's EEG: what all causes do to its traits and findings."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np

from openclef.simulate.findings import PATTERNS
from openclef.simulate.parameters import Cause, Hospital, Setting
from openclef.simulate.patients import BadKind, Effect, Finding, Region, Side
from openclef.simulate.traits import TRAITS
from openclef.types import CHANNELS

# Part of the variance of a healthy trait that stays with the patient.
_STABLE = 0.7
# Sleep drive that a setting adds, in SD.
SLEEPIER: dict[Setting, float] = {"ltm": 0.9, "emu": 0.9, "icu": -0.3}
# The EEG of intensive care is larger and slower, for all that is not in the table of causes, and
# varies more in size.
ICU_LARGER = {"background_uv": 2.0, "delta_uv": 3.5, "theta_uv": 2.4}
_ICU_SIZE_SD = 0.35
_LARGE = (
    "generalized_slowing", "focal_slowing", "status", "seizure", "spike_wave", "polyspikes", "lpd",
    "gpd", "bipd", "triphasic", "lrda", "grda", "breach",
)  # fmt: skip
# What a finding leaves no room for, in this order: an EEG that is suppressed has no background,
# one with large waves is not of low voltage.
_EXCLUDES: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "burst_suppression",
        (
            "generalized_slowing", "focal_slowing", "diffuse_beta", "bets", "posts", "wicket",
            "photoparoxysmal", "spike_wave", "polyspikes", "grda", "lrda", "breach", "low_voltage",
        ),
    ),
    ("triphasic", ("gpd",)),
    ("bipd", ("lpd",)),
    ("status", ("seizure",)),
    *((large, ("low_voltage",)) for large in _LARGE),
    ("low_voltage", ("diffuse_beta",)),
)  # fmt: skip


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
    """Draw the findings of a session.

    thresholds: of each, uniform, what stays with the patient. side, region: where the abnormal
    lateral ones lie; variants are temporal, on a side of the day.
    """
    variant_side: Side = "left" if rng.random() < 0.5 else "right"
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
        if pattern.settings and setting not in pattern.settings:
            continue
        if thresholds[name] < 1 - spared:
            finding = Finding(float(strength), float(rate))
            if pattern.lateral and pattern.abnormal:
                finding = replace(finding, side=side, region=region)
            elif pattern.lateral:
                finding = replace(finding, side=variant_side, region="temporal")
            present[name] = finding
    for name, others in _EXCLUDES:
        if name in present:
            for other in others:
                present.pop(other, None)
    if "burst_suppression" in present:
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
    shift["sleep_drive"] += SLEEPIER.get(setting, 0.0)
    today = rng.standard_normal(len(TRAITS)).tolist()
    levels = {}
    for (name, trait), z in zip(TRAITS.items(), today, strict=True):
        score = math.sqrt(_STABLE) * scores[name] + math.sqrt(1 - _STABLE) * z
        levels[name] = trait.value(score + shift[name], age=max(age, 16.0))
    if setting == "icu":
        size = float(rng.lognormal(0, _ICU_SIZE_SD))
        for name, factor in ICU_LARGER.items():
            levels[name] *= factor * size
    # The rhythms of children are slower and larger until about 16.
    young = max(0.0, 16 - age)
    levels["pdr_hz"] -= 0.25 * young
    for name in ("theta_uv", "delta_uv"):
        levels[name] *= 1 + 0.08 * young
    return {name: min(TRAITS[name].high, max(TRAITS[name].low, x)) for name, x in levels.items()}


def draw_bad_channels(rng: np.random.Generator, *, setting: Setting) -> dict[str, BadKind]:
    """Draw what is wrong with which electrode."""
    n_bad = min(3, int(rng.poisson(0.8 if setting == "icu" else 0.25)))
    names = rng.choice(len(CHANNELS), size=n_bad, replace=False)
    odds: dict[BadKind, float] = {"flat": 0.2, "noisy": 0.35, "popping": 0.3, "bridged": 0.15}
    kinds, weights = list(odds), np.array(list(odds.values()))
    return {CHANNELS[row]: kinds[int(rng.choice(len(kinds), p=weights))] for row in names}
