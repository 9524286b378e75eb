"""Who comes to a simulated hospital: people, diseases, drugs, sessions.

Everything here is drawn from `(seed, patient index)` alone, so any worker can draw any patient.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import TypeVar

import numpy as np

from openclef.simulate.config import SimulationConfig
from openclef.simulate.findings import PATTERNS
from openclef.simulate.parameters import (
    Cause,
    Hospital,
    Setting,
    Site,
    load_hospital,
    with_log_odds,
)
from openclef.simulate.patients import Effect, Patient, Region, Session, Sex, Side
from openclef.simulate.state import draw_bad_channels, draw_findings, draw_levels, effects_of
from openclef.simulate.traits import TRAITS

Name = TypeVar("Name", bound=str)

_REGIONS: dict[Region, float] = {
    "temporal": 0.45, "frontal": 0.25, "central": 0.12, "parietal": 0.1, "occipital": 0.08,
}  # fmt: skip
# Share of liabilities that are drawn anew for a later session.
_REDRAWN = 0.35
_PRODROME_YEARS = 2.0
# First sessions.
_FIRST, _LAST = datetime(2016, 1, 1), datetime(2022, 12, 31)
_YOUNGEST, _OLDEST = 6, 94


@dataclass(frozen=True)
class _Liabilities:
    """What stays with a patient: standard scores of traits, thresholds of findings and drugs."""

    traits: Mapping[str, float]
    findings: Mapping[str, float]
    drugs: Mapping[str, float]
    choice: Mapping[str, int]

    @classmethod
    def draw(cls, rng: np.random.Generator, hospital: Hospital) -> _Liabilities:
        drugs = hospital.medications
        return cls(
            dict(zip(TRAITS, rng.standard_normal(len(TRAITS)).tolist(), strict=True)),
            dict(zip(PATTERNS, rng.random(len(PATTERNS)).tolist(), strict=True)),
            dict(zip(drugs, rng.random(len(drugs)).tolist(), strict=True)),
            dict(zip(drugs, rng.integers(1 << 30, size=len(drugs)).tolist(), strict=True)),
        )

    def later(self, rng: np.random.Generator) -> _Liabilities:
        """Return them at a later session: some thresholds are drawn anew."""

        def again(old: Mapping[str, float]) -> dict[str, float]:
            is_new = rng.random(len(old)) < _REDRAWN
            drawn = np.where(is_new, rng.random(len(old)), list(old.values()))
            return dict(zip(old, drawn.tolist(), strict=True))

        return _Liabilities(self.traits, again(self.findings), again(self.drugs), self.choice)


def draw_patient(config: SimulationConfig, *, index: int) -> Patient:
    """Draw one patient and all sessions.

    Parameters
    ----------
    config : SimulationConfig
        The hospital.
    index : int
        Position of the patient, from 0.

    Returns
    -------
    Patient
        The same for the same seed, index and configuration.
    """
    hospital = load_hospital(config.hospital)
    rng = config.generator("patient", patient=index)
    sites = dict(list(hospital.sites.items())[: config.n_sites])
    site_name = _choose(rng, {name: site.share for name, site in sites.items()})
    site = sites[site_name]
    setting = _draw_setting(rng, hospital, site)
    sex: Sex = "F" if rng.random() < 0.52 else "M"
    race = _choose(rng, hospital.races)
    age = _draw_age(rng)
    side: Side = "left" if rng.random() < 0.5 else "right"
    region: Region = _choose(rng, _REGIONS)
    day = _FIRST + timedelta(days=int(rng.integers((_LAST - _FIRST).days + 1)))
    birth = (day - timedelta(days=age * 365.2425)).date()
    domains = dict(
        zip(hospital.domains, rng.standard_normal(len(hospital.domains)).tolist(), strict=True)
    )
    odds = _Odds(hospital, domains, sex=sex)
    diseases = _draw_diseases(rng, odds, site, setting=setting, age=age, day=day, birth=birth)
    liabilities = _Liabilities.draw(rng, hospital)
    has_record = bool(rng.random() >= hospital.noise.no_record)
    n_sessions = 1
    while n_sessions < 4 and rng.random() < hospital.noise.second_session:
        n_sessions += 1
    sessions = []
    for number in range(n_sessions):
        if number:
            day += timedelta(days=int(rng.integers(14, 900)))
            setting = setting if rng.random() < 0.5 else _draw_setting(rng, hospital, site)
            liabilities = liabilities.later(rng)
        start = day + timedelta(minutes=int(rng.integers(7 * 60, 18 * 60)))
        session = _draw_session(
            config.generator("session", patient=index, session=number),
            config, hospital, site,
            number=number, start=start, age=(start.date() - birth).days / 365.2425, odds=odds,
            setting=setting, diseases=diseases, liabilities=liabilities, side=side, region=region,
        )  # fmt: skip
        sessions.append(session)
    return Patient(
        index=index,
        name=f"sub-{index + 1:0{max(5, len(str(config.n_patients)))}d}",
        subject_id=7_000_001 + index,
        birth=birth,
        sex=sex,
        race=race,
        site_name=site_name,
        site=site,
        domains=domains,
        diseases=diseases,
        side=side,
        region=region,
        has_record=has_record,
        sessions=tuple(sessions),
    )


def _draw_age(rng: np.random.Generator) -> float:
    """Draw an age in years: adults, and children beside."""
    while True:
        age = float(rng.normal(52, 20) if rng.random() < 0.9 else rng.uniform(_YOUNGEST, 25))
        if _YOUNGEST <= age <= _OLDEST:
            return age


def _choose(rng: np.random.Generator, odds: Mapping[Name, float]) -> Name:
    weights = np.array(list(odds.values()))
    return list(odds)[int(rng.choice(len(weights), p=weights / weights.sum()))]


def _draw_setting(rng: np.random.Generator, hospital: Hospital, site: Site) -> Setting:
    return _choose(rng, {s: p * site.settings.get(s, 1.0) for s, p in hospital.settings.items()})


@dataclass(frozen=True)
class _Odds:
    """How likely a cause is for one patient."""

    hospital: Hospital
    domains: Mapping[str, float]
    sex: Sex

    def probability(
        self, cause: Cause, *, setting: Setting, age: float, more: float = 0.0
    ) -> float:
        """Return the probability of a cause from all log odds, `more` included."""
        if cause.probability <= 0:
            return 0.0
        log_odds = (
            math.log(cause.probability / (1 - cause.probability))
            + cause.per_decade * (age - 50) / 10
            + cause.female * (self.sex == "F")
            + cause.settings.get(setting, 0.0)
            + more
        )
        if cause.domain is not None:
            loading = self.hospital.domains[cause.domain].loading
            # A normal liability flattens a logistic curve by so much: the mean stays.
            log_odds *= math.sqrt(1 + 0.346 * loading**2)
            log_odds += loading * self.domains[cause.domain]
        return 1 / (1 + math.exp(-log_odds))


def _draw_diseases(
    rng: np.random.Generator,
    odds: _Odds,
    site: Site,
    *,
    setting: Setting,
    age: float,
    day: datetime,
    birth: date,
) -> dict[str, date]:
    """Draw diseases in the order of the table, so that one may follow from those before it."""
    present: dict[str, date] = {}
    for name, disease in odds.hospital.diseases.items():
        more = sum(w for other, w in disease.after.items() if other in present)
        more += site.severity * disease.severe
        probability = odds.probability(disease, setting=setting, age=age, more=more)
        years_before = rng.exponential(4) if rng.random() < 0.92 else -rng.exponential(1.5)
        if rng.random() < probability:
            years_before = min(years_before, age - 1)
            onset = (day - timedelta(days=years_before * 365.2425)).date()
            present[name] = birth if disease.congenital else onset
    return present


def _draw_session(
    rng: np.random.Generator,
    config: SimulationConfig,
    hospital: Hospital,
    site: Site,
    *,
    number: int,
    start: datetime,
    age: float,
    odds: _Odds,
    setting: Setting,
    diseases: Mapping[str, date],
    liabilities: _Liabilities,
    side: Side,
    region: Region,
) -> Session:
    begun = {name for name, onset in diseases.items() if onset <= start.date()}
    drugs = _draw_drugs(odds, begun, liabilities, setting=setting, age=age)
    causes: dict[str, tuple[Cause, float]] = {}
    for name, onset in diseases.items():
        disease = hospital.diseases[name]
        years = (onset - start.date()).days / 365.2425
        # What comes slowly casts a shadow of half its strength.
        is_near = years < _PRODROME_YEARS and not disease.sudden
        weight = 1.0 if name in begun else 0.5 if is_near else 0.0
        causes[name] = disease, weight * config.effect_size
    for name in drugs:
        causes[name] = hospital.medications[name], config.effect_size
    effects = (
        *(
            Effect(name, "trait", trait, config.effect_size * odds.domains[name] * z)
            for name, domain in hospital.domains.items()
            if config.effect_size > 0
            for trait, z in domain.traits.items()
        ),
        *(
            effect
            for name, (cause, weight) in causes.items()
            if weight > 0
            for effect in effects_of(name, cause, weight=weight)
        ),
    )
    findings = draw_findings(
        rng, hospital, effects, thresholds=liabilities.findings, setting=setting, side=side,
        region=region,
    )  # fmt: skip
    return Session(
        index=number,
        start=start,
        age=age,
        setting=setting,
        duration_s=int(rng.integers(config.shortest_s, config.longest_s + 1)),
        sfreq_hz=int(site.sfreq_hz if config.sfreq == "native" else config.sfreq),
        drugs=drugs,
        findings=findings,
        levels=draw_levels(rng, effects, scores=liabilities.traits, setting=setting, age=age),
        effects=effects,
        bad_channels=draw_bad_channels(rng, setting=setting),
        has_report=bool(rng.random() >= hospital.noise.no_report),
    )


def _draw_drugs(
    odds: _Odds,
    diseases: Collection[str],
    liabilities: _Liabilities,
    *,
    setting: Setting,
    age: float,
) -> dict[str, tuple[str, str]]:
    taken = {}
    for name, medication in odds.hospital.medications.items():
        spared = 1 - odds.probability(medication, setting=setting, age=age)
        here = medication.settings.get(setting, 0.0)
        spared *= math.prod(
            1 - with_log_odds(p, here) for d, p in medication.indications.items() if d in diseases
        )
        if liabilities.drugs[name] < 1 - spared:
            options = list(medication.drugs.items())
            taken[name] = options[liabilities.choice[name] % len(options)]
    return taken
