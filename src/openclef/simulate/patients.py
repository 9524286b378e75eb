"""Who the simulated patients are: people, diseases, sessions, states of the EEG.

Everything here is drawn from `(seed, patient index)` alone, so any worker can draw any patient.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from openclef.simulate.causes import (
    DISEASES,
    FINDINGS,
    MEDICATIONS,
    RACES,
    SETTINGS,
    SITES,
    SLEEP_BY_SETTING,
    Site,
)
from openclef.types import CHANNELS, SFREQ_HZ, WINDOW_S

Side = Literal["left", "right"]
BadKind = Literal["flat", "noisy"]
Stream = Literal["patient", "signal", "notes", "records"]
_STREAMS: tuple[Stream, ...] = ("patient", "signal", "notes", "records")
_LATERALIZED = ("focal_slowing", "spikes", "lpd")


class SimulationConfig(BaseModel):
    """A simulated hospital.

    Attributes
    ----------
    n_patients, seed : int
        How many patients, and the one seed of everything drawn.
    n_sites : int
        How many of the sites in `causes.SITES`.
    duration_s : int
        Length of each session; the default is one window of the model [P].
    sfreq_hz : float
        Sampling frequency, a whole number (EDF data records last one second).
    effect_size : float
        Scales the trace of every finding and medication in the signal; 0 leaves none.
    second_session_share, no_record_share, no_report_share : float
        Share of patients with a second session, of patients without any health record, and of
        sessions without a report.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    n_patients: int = Field(320, ge=1)
    seed: int = Field(0, ge=0)
    n_sites: int = Field(2, ge=1, le=len(SITES))
    duration_s: int = Field(WINDOW_S, ge=10)
    sfreq_hz: float = Field(SFREQ_HZ, ge=200, le=1024, multiple_of=1)
    effect_size: float = Field(1.0, ge=0, le=3)
    second_session_share: float = Field(0.1, ge=0, le=1)
    no_record_share: float = Field(0.06, ge=0, le=1)
    no_report_share: float = Field(0.08, ge=0, le=1)

    def generator(self, stream: Stream, *, patient: int, session: int = 0) -> np.random.Generator:
        """Return the generator of one purpose, patient and session, independent of all others."""
        key = (_STREAMS.index(stream), patient, session)
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=key))


@dataclass(frozen=True)
class Traits:
    """What is individual in a healthy EEG: spectrum and rhythms (amplitudes at their maximum)."""

    exponent: float
    background_uv2: float
    alpha_hz: float
    alpha_uv: float
    beta_uv: float
    theta_uv: float
    delta_uv: float
    reactivity: float
    drowsiness: float


@dataclass(frozen=True)
class Sign:
    """A finding that is present: how strong (about 1), and on which side if it has one."""

    severity: float
    side: Side | None = None
    region: str | None = None


@dataclass(frozen=True)
class Session:
    """One session: when, where, on what drugs, and the true state of the EEG."""

    index: int
    start: datetime
    age: int
    setting: str
    drugs: Mapping[str, tuple[str, str]]
    findings: Mapping[str, Sign]
    gains: Mapping[str, float]
    slowing_hz: float
    bad_channels: Mapping[str, BadKind]
    has_report: bool

    @property
    def name(self) -> str:
        """BIDS session label."""
        return f"ses-{self.index + 1:02d}"


@dataclass(frozen=True)
class Patient:
    """One person with all sessions."""

    index: int
    name: str
    subject_id: int
    birth: date
    sex: Literal["F", "M"]
    race: str
    site: Site
    diseases: tuple[str, ...]
    traits: Traits
    has_record: bool
    sessions: tuple[Session, ...]


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
    rng = config.generator("patient", patient=index)
    site = SITES[index % config.n_sites]
    sex: Literal["F", "M"] = "F" if rng.random() < 0.52 else "M"
    race = str(rng.choice(list(RACES), p=list(RACES.values())))
    age = int(np.clip(rng.normal(52, 19), 12, 89))
    setting = _draw_setting(rng, site)
    diseases = tuple(
        name for name in DISEASES if rng.random() < _disease_probability(name, age, sex, setting)
    )
    # Focus and liabilities stay with a patient: what was seen once tends to be seen again.
    side: Side = "left" if rng.random() < 0.5 else "right"
    region = str(rng.choice(["temporal", "frontal", "parietal"], p=[0.6, 0.25, 0.15]))
    liability = {name: rng.random() for name in (*FINDINGS, *MEDICATIONS)}
    traits = _draw_traits(rng, age)

    day = datetime(2015, 1, 1) + timedelta(days=int(rng.integers(0, 2500)))
    birth = (day - timedelta(days=age * 365.25 + rng.uniform(2, 363))).date()
    n_sessions = 1 + int(rng.random() < config.second_session_share)
    has_record = bool(rng.random() >= config.no_record_share)
    sessions = []
    for number in range(n_sessions):
        if number:
            day += timedelta(days=int(rng.integers(20, 700)))
            setting = setting if rng.random() < 0.5 else "routine"
            redrawn = [name for name in liability if rng.random() < 0.25]
            liability |= {name: rng.random() for name in redrawn}
        start = day + timedelta(minutes=int(rng.integers(7 * 60, 18 * 60)))
        drugs = _draw_drugs(rng, diseases, setting, sex, liability)
        findings = _draw_findings(rng, diseases, tuple(drugs), setting, liability, side, region)
        sessions.append(
            Session(
                index=number,
                start=start,
                age=int((start.date() - birth).days / 365.25),
                setting=setting,
                drugs=drugs,
                findings=findings,
                gains=_gains(tuple(drugs)),
                slowing_hz=sum(DISEASES[name].slowing_hz for name in diseases)
                + sum(MEDICATIONS[name].slowing_hz for name in drugs),
                bad_channels=_draw_bad_channels(rng, setting),
                has_report=bool(rng.random() >= config.no_report_share),
            )
        )
    return Patient(
        index=index,
        name=f"sub-{index + 1:0{max(4, len(str(config.n_patients)))}d}",
        subject_id=7_000_001 + index,
        birth=birth,
        sex=sex,
        race=race,
        site=site,
        diseases=diseases,
        traits=traits,
        has_record=has_record,
        sessions=tuple(sessions),
    )


def _draw_setting(rng: np.random.Generator, site: Site) -> str:
    odds = np.array([p * site.setting_odds.get(name, 1.0) for name, p in SETTINGS.items()])
    return str(rng.choice(list(SETTINGS), p=odds / odds.sum()))


def _disease_probability(name: str, age: int, sex: str, setting: str) -> float:
    cause = DISEASES[name]
    log_odds = (
        cause.log_odds
        + cause.per_decade * (age - 50) / 10
        + cause.female * (sex == "F")
        + cause.settings.get(setting, 0.0)
    )
    return 1 / (1 + math.exp(-log_odds))


def _draw_traits(rng: np.random.Generator, age: int) -> Traits:
    # The posterior rhythm quickens until about 16 and slows after about 55.
    alpha_hz = 10.1 - 0.25 * max(0, 16 - age) - 0.03 * max(0, age - 55) + rng.normal(0, 0.6)
    return Traits(
        exponent=float(np.clip(rng.normal(1.8 - 0.004 * (age - 50), 0.17), 1.3, 2.3)),
        background_uv2=float(80 * rng.lognormal(0, 0.4)),
        alpha_hz=float(np.clip(alpha_hz, 7.2, 12.5)),
        alpha_uv=float(15 * rng.lognormal(-0.004 * (age - 50), 0.35)),
        beta_uv=float(2.2 * rng.lognormal(0, 0.3)),
        theta_uv=float(3.0 * rng.lognormal(0, 0.25)),
        delta_uv=float(5.0 * rng.lognormal(0, 0.25)),
        reactivity=float(rng.uniform(0.6, 0.9)),
        drowsiness=float(rng.uniform(0.05, 0.4)),
    )


def _draw_drugs(
    rng: np.random.Generator,
    diseases: tuple[str, ...],
    setting: str,
    sex: str,
    liability: Mapping[str, float],
) -> dict[str, tuple[str, str]]:
    taken = {}
    for name, cause in MEDICATIONS.items():
        causes = [DISEASES[disease].medications.get(name, 0.0) for disease in diseases]
        spared = math.prod(1 - p for p in causes)
        spared *= (1 - cause.base) * (1 - cause.icu * (setting == "icu"))
        spared *= 1 - cause.female * (sex == "F")
        drug = cause.drugs[int(rng.integers(len(cause.drugs)))]
        if liability[name] < 1 - spared:
            taken[name] = drug
    return taken


def _draw_findings(
    rng: np.random.Generator,
    diseases: tuple[str, ...],
    drugs: tuple[str, ...],
    setting: str,
    liability: Mapping[str, float],
    side: Side,
    region: str,
) -> dict[str, Sign]:
    present = {}
    for name, base in FINDINGS.items():
        causes = [DISEASES[disease].findings.get(name, 0.0) for disease in diseases]
        causes += [MEDICATIONS[drug].findings.get(name, 0.0) for drug in drugs]
        if name == "sleep":
            causes.append(SLEEP_BY_SETTING.get(setting, 0.0))
        severity = float(rng.lognormal(0, 0.3))
        if liability[name] < 1 - (1 - base) * math.prod(1 - p for p in causes):
            lateral = name in _LATERALIZED
            present[name] = Sign(severity, side, region) if lateral else Sign(severity)
    # States exclude each other: no sleep and no posterior rhythm under burst suppression.
    if "burst_suppression" in present:
        present.pop("sleep", None)
        present.setdefault("absent_pdr", Sign(1.0))
    if "triphasic" in present:
        present.pop("gpd", None)
    if "sleep" in present and rng.random() < 0.75 and "absent_pdr" not in present:
        present["spindles"] = Sign(float(rng.lognormal(0, 0.3)))
    return present


def _gains(drugs: tuple[str, ...]) -> dict[str, float]:
    bands = ("delta", "theta", "alpha", "beta")
    return {band: sum(MEDICATIONS[drug].gains.get(band, 0.0) for drug in drugs) for band in bands}


def _draw_bad_channels(rng: np.random.Generator, setting: str) -> dict[str, BadKind]:
    n_bad = int(rng.poisson(0.9 if setting == "icu" else 0.3))
    names = rng.choice(CHANNELS, size=min(n_bad, 3), replace=False)
    return {str(name): "flat" if rng.random() < 0.4 else "noisy" for name in names}
