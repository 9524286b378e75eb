"""People of a simulated hospital and their sessions: what is known of each before any signal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Literal

from openclef.simulate.parameters import Setting, Site

Side = Literal["left", "right"]
Region = Literal["frontal", "temporal", "central", "parietal", "occipital"]
BadKind = Literal["flat", "noisy", "popping", "bridged"]
Sex = Literal["F", "M"]


@dataclass(frozen=True)
class Effect:
    """What one cause does to one session: a shift (SD), a probability or a factor on a rate."""

    cause: str
    kind: Literal["trait", "finding", "rate"]
    target: str
    value: float


@dataclass(frozen=True)
class Finding:
    """A finding that is present: how strong and how often (factors about 1), and where."""

    strength: float
    rate: float
    side: Side | None = None
    region: Region | None = None


@dataclass(frozen=True)
class Session:
    """One session: when, where, on what drugs, and the true state of the EEG.

    drugs: medication -> (ATC code, generic name). levels: value of each trait (`traits.TRAITS`).
    bad_channels: electrode -> what is wrong; a bridged one follows its neighbour.
    """

    index: int
    start: datetime
    age: float
    setting: Setting
    duration_s: int
    sfreq_hz: int
    drugs: Mapping[str, tuple[str, str]]
    findings: Mapping[str, Finding]
    levels: Mapping[str, float]
    effects: tuple[Effect, ...]
    bad_channels: Mapping[str, BadKind]
    has_report: bool

    @property
    def name(self) -> str:
        """BIDS session label."""
        return f"ses-{self.index + 1:02d}"


@dataclass(frozen=True)
class Patient:
    """One person with all sessions.

    domains: liability to each domain of diseases. diseases: name -> day of onset. side, region: of
    the lesion.
    """

    index: int
    name: str
    subject_id: int
    birth: date
    sex: Sex
    race: str
    site_name: str
    site: Site
    domains: Mapping[str, float]
    diseases: Mapping[str, date]
    side: Side
    region: Region
    has_record: bool
    sessions: tuple[Session, ...]
