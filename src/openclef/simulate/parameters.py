"""The tables of a simulated hospital: causes, their odds and effects, sites. One TOML file each.

The causal graph: age, sex, site, setting and domains -> diseases; diseases -> traits, findings and
medications; age, sex, setting and domains -> medications; domains -> traits; medications -> traits
and findings; traits, findings -> signal. Log odds add up; probabilities of one finding from several
causes combine as a noisy OR; shifts of one trait add up.
"""

from __future__ import annotations

import hashlib
import math
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from openclef.errors import choose

Setting = Literal["routine", "ltm", "emu", "icu"]
Probability = Annotated[float, Field(ge=0, le=1)]
AnyCause = TypeVar("AnyCause", bound="Cause")
Name = TypeVar("Name", bound=str)


def with_log_odds(p: float, more: float) -> float:
    """Return a probability with log odds added; one that is 0 or 1 stays."""
    return p / (p + (1 - p) * math.exp(-more))


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Cause(_Table):
    """What a disease and a medication have in common.

    Attributes
    ----------
    probability : float
        Of a man of 50 in a setting that adds nothing, at a site that sees no sicker people, without
        anything else that makes it more likely.
    per_decade, female : float
        Log odds added for each decade above 50, and for women.
    settings : mapping
        Log odds added in a setting; of a medication, also to the probability of each indication.
    traits : mapping
        Shift of a trait (`traits.TRAITS`) in standard deviations.
    findings : mapping
        Probability of a finding (`findings.PATTERNS`) from this cause.
    rates : mapping
        Factor on how often a finding that is there comes (below 1: treats it).
    domain : str or None
        What underlies it: the patient's liability there adds to its log odds.
    null : bool
        Set before any calibration: no arrow leads from it to the EEG, nor from what causes it but
        what controls are matched on.
    """

    probability: Probability
    per_decade: float = 0.0
    female: float = 0.0
    settings: dict[Setting, float] = {}
    traits: dict[str, float] = {}
    findings: dict[str, Probability] = {}
    rates: dict[str, float] = {}
    domain: str | None = None
    null: bool = False


class Domain(_Table):
    """What underlies several diseases and drugs, is never recorded, and shows in the EEG.

    Attributes
    ----------
    loading : float
        Log odds that a unit of a patient's liability (standard normal) adds to each.
    traits : mapping
        Shift of a trait in standard deviations for a unit of liability.
    """

    loading: float
    traits: dict[str, float]


class Disease(Cause):
    """A disease: the codes it is recorded by; log odds that other diseases add to it.

    severe: more common at sites that see sicker people.
    lesion: it lies in one place, and some codes may tell the side (`left_codes`, `right_codes`).
    That place is the patient's: abnormal lateral findings lie there, whatever their cause.
    sudden: nothing of it shows before its onset; other diseases cast a shadow in the two years
    before. congenital: its onset is birth.
    """

    codes: tuple[str, ...]
    left_codes: tuple[str, ...] = ()
    right_codes: tuple[str, ...] = ()
    after: dict[str, float] = {}
    severe: bool = False
    lesion: bool = False
    sudden: bool = False
    congenital: bool = False


class Medication(Cause):
    """A class of drugs: ATC code -> generic name; the probability that a disease adds."""

    drugs: dict[str, str]
    indications: dict[str, Probability] = {}


class BaseFinding(_Table):
    """A finding without any cause: how likely; in which setting more so (probability added)."""

    probability: Probability
    settings: dict[Setting, Probability] = {}


class Site(_Table):
    """A hospital and its amplifiers.

    Attributes
    ----------
    share : float
        Of the patients, relative to the other sites.
    severity : float
        Log odds added to every severe disease.
    settings : mapping
        Odds of a setting relative to the whole.
    sfreq_hz, gain, noise_uv, resolution_uv : float
        Native sampling frequency, calibration error as a factor, SD of white noise, digital step.
    highpass_hz, lowpass_hz : float
        The amplifier's band (first and fourth order).
    reference : str
        `linked ears`, `average`, `Cz` or `A1`.
    line_hz, line_uv : float
        Mains frequency and its typical RMS.
    label : str
        How a channel is spelled in the EDF header, `{}` for the electrode (`{upper}` in capitals).
    modern_names : bool
        T7, T8, P7, P8 for T3, T4, T5, T6.
    extra_channels : tuple of str
        Recorded beside the 19 at native rate.
    """

    share: float = Field(gt=0)
    severity: float = 0.0
    settings: dict[Setting, float] = {}
    sfreq_hz: float = 200.0
    gain: float = 1.0
    noise_uv: float = 0.8
    resolution_uv: float = 0.1
    highpass_hz: float = 0.1
    lowpass_hz: float = 70.0
    reference: Literal["linked ears", "average", "Cz", "A1"] = "linked ears"
    line_hz: Literal[50, 60] = 60
    line_uv: float = 1.0
    label: str = "EEG {}-REF"
    modern_names: bool = False
    extra_channels: tuple[str, ...] = ()


class Noise(_Table):
    """How imperfect records and readers are; all are probabilities."""

    no_record: Probability
    no_report: Probability
    second_session: Probability
    unrecorded: Probability
    wrong: Probability
    missed: Probability
    overcalled: Probability


class Hospital(_Table):
    """All parameters of a simulated hospital."""

    version: str
    about: str
    settings: dict[Setting, Probability]
    races: dict[str, Probability]
    noise: Noise
    sites: dict[str, Site]
    findings: dict[str, BaseFinding]
    domains: dict[str, Domain]
    diseases: dict[str, Disease]
    medications: dict[str, Medication]

    def causes(self) -> Iterator[tuple[str, Cause]]:
        """Diseases, then medications: (`disease:<name>` or `medication:<name>`, cause)."""
        yield from ((f"disease:{name}", disease) for name, disease in self.diseases.items())
        yield from ((f"medication:{name}", drug) for name, drug in self.medications.items())


class _Shift(_Table):
    """A second draw of a hospital, for final tables only: the same graph, other numbers.

    Drawn anew: the shifts of traits by diseases, medications and domains, the logarithm of each
    rate (a treatment stays one), and the probabilities of diseases, medications, indications and
    findings, with a cause or without. The sites are others. Kept: log odds by age, sex, setting and
    domain and from disease to disease, shares of settings, codes, drugs, noise.

    base, seed: what is drawn anew, and from what seed. trait_sd: SD of the logarithm of a factor
    on each shift and each rate's logarithm. odds_sd: SD of the log odds added to each probability.
    sites: other amplifiers in place of the base's.
    """

    base: str
    about: str
    seed: int
    trait_sd: float
    odds_sd: float
    sites: dict[str, Site]

    def apply(self, hospital: Hospital, *, version: str) -> Hospital:
        rng = np.random.default_rng(self.seed)

        def factor() -> float:
            return float(rng.lognormal(0, self.trait_sd))

        def odds(p: float) -> float:
            return with_log_odds(p, float(rng.normal(0, self.odds_sd)))

        def all_odds(old: Mapping[Any, float]) -> dict[Any, float]:
            return {name: odds(p) for name, p in old.items()}

        def cause(old: AnyCause) -> AnyCause:
            changed: dict[str, object] = {
                "probability": odds(old.probability),
                "traits": {name: z * factor() for name, z in old.traits.items()},
                "findings": all_odds(old.findings),
                "rates": {name: rate ** factor() for name, rate in old.rates.items()},
            }
            if isinstance(old, Medication):
                changed["indications"] = all_odds(old.indications)
            return old.model_copy(update=changed)

        def finding(old: BaseFinding) -> BaseFinding:
            return old.model_copy(
                update={"probability": odds(old.probability), "settings": all_odds(old.settings)}
            )

        domains = {
            name: old.model_copy(
                update={"traits": {trait: z * factor() for trait, z in old.traits.items()}}
            )
            for name, old in hospital.domains.items()
        }
        return hospital.model_copy(
            update={
                "version": version,
                "about": self.about,
                "sites": self.sites,
                "domains": domains,
                "findings": {name: finding(old) for name, old in hospital.findings.items()},
                "diseases": {name: cause(old) for name, old in hospital.diseases.items()},
                "medications": {name: cause(old) for name, old in hospital.medications.items()},
            }
        )


@cache
def load_hospital(name: str) -> Hospital:
    """Read `simulate/hospitals/<name>.toml`; one with a `base` is that one with effects redrawn.

    Raises
    ------
    OpenclefError
        If there is no such table; the names that there are and the nearest one are told.
    """
    folder = resources.files("openclef.simulate") / "hospitals"
    known = [
        file.name.removesuffix(".toml") for file in folder.iterdir() if file.name.endswith(".toml")
    ]
    text = (folder / f"{choose(name, known, 'hospital')}.toml").read_text(encoding="utf-8")
    table = tomllib.loads(text)
    if "base" in table:
        shift = _Shift.model_validate(table)
        return shift.apply(load_hospital(shift.base), version=name)
    return Hospital.model_validate(table)


def generator_hash() -> str:
    """sha256 over the simulator's code and tables: what cohorts made alike have in common.

    Records are drawn from the lists of `openclef.clinical`, so these count too.
    """
    digest = hashlib.sha256()
    files: dict[str, bytes] = {}
    waiting = [
        (f"{name}/", resources.files(f"openclef.{name}")) for name in ("clinical", "simulate")
    ]
    while waiting:
        folder, here = waiting.pop()
        for item in here.iterdir():
            if item.is_dir():
                waiting.append((f"{folder}{item.name}/", item))
            elif item.name.endswith((".py", ".toml", ".json")):
                files[folder + item.name] = item.read_bytes()
    for name in sorted(files):
        digest.update(name.encode() + files[name])
    return digest.hexdigest()
