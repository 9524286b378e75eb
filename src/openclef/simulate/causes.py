"""The causal graph of the simulated hospital, as tables.

age, sex, site, setting -> disease; disease -> findings and medications; medication -> findings
and gains of the EEG; findings -> signal. Disease names are those of `clinical.DISEASES`,
medication names those of `clinical.MEDICATIONS`, finding names those of `clinical.FINDINGS`.
Log odds add up; probabilities of one finding from several causes combine as a noisy OR. The
numbers are plausible choices, not estimates: they aim at tasks of graded difficulty.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

SETTINGS = {"routine": 0.52, "ltm": 0.18, "emu": 0.12, "icu": 0.18}
RACES = {"WHITE": 0.62, "BLACK": 0.16, "ASIAN": 0.07, "OTHER": 0.09, "UNKNOWN": 0.06}


@dataclass(frozen=True)
class Site:
    """A hospital: its share of patients and its amplifiers.

    Attributes
    ----------
    name : str
        Site name as in HEEDB.
    label : str
        How it spells a channel in an EDF header, with `{}` for the electrode.
    gain : float
        Calibration error of its amplifiers, a factor.
    noise_uv : float
        Standard deviation of the amplifiers' white noise.
    resolution_uv : float
        One digital step.
    setting_odds : mapping
        Odds of each setting relative to `SETTINGS`.
    """

    name: str
    label: str
    gain: float
    noise_uv: float
    resolution_uv: float
    setting_odds: Mapping[str, float] = field(default_factory=dict)


SITES = (
    Site("S0001", "EEG {}-REF", 1.0, 0.6, 0.1),
    Site("S0002", "{}", 1.12, 1.1, 0.25, {"icu": 1.6, "emu": 0.6}),
    Site("I0002", "EEG {}-Ref", 0.94, 0.8, 0.1, {"ltm": 1.5}),
    Site("I0003", "{}", 1.05, 0.7, 0.2, {"emu": 2.0, "icu": 0.5}),
)


@dataclass(frozen=True)
class Disease:
    """What makes a disease likely and what it leads to.

    `log_odds` is that of a man of 50 in a routine session; `per_decade` is added for each decade
    above 50, `settings` for the setting, `female` for women. `slowing_hz` is taken off the
    posterior rhythm's frequency.
    """

    codes: tuple[str, ...]
    log_odds: float
    per_decade: float = 0.0
    female: float = 0.0
    settings: Mapping[str, float] = field(default_factory=dict)
    findings: Mapping[str, float] = field(default_factory=dict)
    medications: Mapping[str, float] = field(default_factory=dict)
    slowing_hz: float = 0.0


DISEASES = {
    "epilepsy_focal": Disease(
        ("G40.009", "G40.109", "G40.119", "G40.209", "G40.219"),
        -1.4,
        -0.1,
        settings={"emu": 1.5, "ltm": 0.5, "icu": -0.3},
        findings={"spikes": 0.55, "focal_slowing": 0.45},
        medications={
            "levetiracetam": 0.5,
            "carbamazepine_like": 0.4,
            "benzodiazepines": 0.25,
            "barbiturates": 0.06,
        },
    ),
    "epilepsy_generalized": Disease(
        ("G40.309", "G40.319", "G40.A09", "G40.B09", "G40.409"),
        -1.7,
        -0.25,
        settings={"emu": 0.8, "icu": -0.6},
        findings={"spike_wave": 0.6},
        medications={"valproate": 0.55, "levetiracetam": 0.4, "benzodiazepines": 0.2},
    ),
    "dementia": Disease(
        ("F01.50", "F03.90", "G30.1", "G30.9", "G31.09", "G31.83"),
        -1.7,
        0.6,
        settings={"emu": -1.0},
        findings={"generalized_slowing": 0.45, "absent_pdr": 0.2},
        medications={"antipsychotics": 0.25, "antidepressants": 0.15},
        slowing_hz=0.8,
    ),
    "stroke": Disease(
        ("I60.9", "I61.9", "I63.40", "I63.511", "I63.512", "I63.9", "I69.30", "I69.398"),
        -1.6,
        0.25,
        settings={"icu": 0.9, "emu": -0.8},
        findings={"focal_slowing": 0.5, "lpd": 0.07, "generalized_slowing": 0.12, "spikes": 0.06},
        medications={"levetiracetam": 0.3, "opioids": 0.1, "benzodiazepines": 0.08},
    ),
    "brain_tumor": Disease(
        ("C71.1", "C71.2", "C71.9", "C79.31", "D32.0", "D49.6"),
        -2.7,
        0.05,
        findings={"focal_slowing": 0.6, "spikes": 0.15, "lpd": 0.07},
        medications={"corticosteroids": 0.6, "levetiracetam": 0.5, "opioids": 0.2},
    ),
    "encephalopathy": Disease(
        ("G92.8", "G93.40", "G93.41", "G93.49"),
        -1.9,
        0.2,
        settings={"icu": 2.2, "ltm": 0.7, "emu": -1.5},
        findings={
            "generalized_slowing": 0.6,
            "absent_pdr": 0.35,
            "gpd": 0.12,
            "triphasic": 0.12,
        },
        medications={"opioids": 0.15, "antipsychotics": 0.15, "benzodiazepines": 0.12},
    ),
    "anoxic_brain_injury": Disease(
        ("G93.1",),
        -6.0,
        0.05,
        settings={"icu": 4.2, "ltm": 1.0},
        findings={
            "burst_suppression": 0.4,
            "gpd": 0.3,
            "low_voltage": 0.3,
            "generalized_slowing": 0.5,
            "absent_pdr": 0.8,
        },
        medications={"benzodiazepines": 0.5, "opioids": 0.4, "valproate": 0.2},
    ),
    "traumatic_brain_injury": Disease(
        ("S06.0X0A", "S06.2X9A", "S06.5X0A", "S06.5X9A", "S06.9X9A"),
        -2.5,
        -0.05,
        settings={"icu": 0.9},
        findings={"focal_slowing": 0.3, "generalized_slowing": 0.2, "low_voltage": 0.12},
        medications={"levetiracetam": 0.4, "opioids": 0.3},
    ),
    "sleep_disorder": Disease(
        ("G47.00", "G47.10", "G47.33", "G47.419", "G47.52"),
        -1.2,
        0.05,
        settings={"icu": -0.8},
        findings={"sleep": 0.7},
        medications={"antidepressants": 0.1, "benzodiazepines": 0.08},
    ),
    "depression": Disease(
        ("F32.1", "F32.9", "F32.A", "F33.1", "F33.9"),
        -1.2,
        female=0.5,
        medications={"antidepressants": 0.65, "benzodiazepines": 0.15, "antipsychotics": 0.15},
    ),
    # No trace in the EEG: migraine depends on sex alone, and sex on nothing.
    "migraine": Disease(("G43.009", "G43.109", "G43.709", "G43.909"), -1.7, female=0.9),
}


@dataclass(frozen=True)
class Medication:
    """A class of drugs: its ATC codes with generic names, how common it is, what it does.

    `base` is the probability without any indication, `icu` that in intensive care besides.
    `gains` are log amplitude gains of a band of the EEG, `findings` probabilities of a finding.
    """

    drugs: tuple[tuple[str, str], ...]
    base: float
    icu: float = 0.0
    female: float = 0.0
    gains: Mapping[str, float] = field(default_factory=dict)
    findings: Mapping[str, float] = field(default_factory=dict)
    slowing_hz: float = 0.0


MEDICATIONS = {
    "benzodiazepines": Medication(
        (
            ("N05BA06", "lorazepam"),
            ("N05BA01", "diazepam"),
            ("N03AE01", "clonazepam"),
            ("N05CD08", "midazolam"),
        ),
        0.12,
        icu=0.25,
        gains={"beta": 0.6, "alpha": -0.15},
        findings={"diffuse_beta": 0.5},
    ),
    "barbiturates": Medication(
        (("N03AA02", "phenobarbital"), ("N03AA03", "primidone")),
        0.02,
        gains={"beta": 0.45, "theta": 0.1},
        findings={"diffuse_beta": 0.4},
    ),
    "levetiracetam": Medication((("N03AX14", "levetiracetam"),), 0.06, gains={"beta": 0.1}),
    "valproate": Medication(
        (("N03AG01", "valproate"),), 0.03, gains={"alpha": -0.25, "theta": 0.1}, slowing_hz=0.2
    ),
    "carbamazepine_like": Medication(
        (("N03AF01", "carbamazepine"), ("N03AF02", "oxcarbazepine")),
        0.02,
        gains={"theta": 0.25},
        slowing_hz=0.6,
    ),
    "antipsychotics": Medication(
        (
            ("N05AH04", "quetiapine"),
            ("N05AH03", "olanzapine"),
            ("N05AD01", "haloperidol"),
            ("N05AH02", "clozapine"),
            ("N05AN01", "lithium"),
        ),
        0.06,
        gains={"theta": 0.25, "delta": 0.15},
        slowing_hz=0.2,
    ),
    "antidepressants": Medication(
        (
            ("N06AB06", "sertraline"),
            ("N06AB10", "escitalopram"),
            ("N06AX16", "venlafaxine"),
            ("N06AX11", "mirtazapine"),
        ),
        0.1,
        gains={"alpha": -0.25, "beta": 0.12},
    ),
    "opioids": Medication(
        (("N02AA05", "oxycodone"), ("N02AB03", "fentanyl"), ("N02AX02", "tramadol")),
        0.07,
        icu=0.3,
        gains={"delta": 0.2, "theta": 0.15},
    ),
    "corticosteroids": Medication(
        (("H02AB02", "dexamethasone"), ("H02AB07", "prednisone")), 0.09, gains={"beta": 0.1}
    ),
    # No trace in the EEG.
    "thyroid_hormones": Medication((("H03AA01", "levothyroxine"),), 0.12, female=0.12),
}

# Findings of a patient without any of the causes above, awake or drowsy at some time.
# `spike_wave`, `triphasic` and `absent_pdr` are states of the signal that a reader reports as
# spikes, generalized periodic discharges and no posterior rhythm.
FINDINGS = {
    "sleep": 0.3,
    "generalized_slowing": 0.07,
    "absent_pdr": 0.05,
    "diffuse_beta": 0.05,
    "focal_slowing": 0.06,
    "spikes": 0.03,
    "spike_wave": 0.01,
    "lpd": 0.005,
    "gpd": 0.004,
    "triphasic": 0.002,
    "burst_suppression": 0.002,
    "low_voltage": 0.06,
}
SLEEP_BY_SETTING = {"ltm": 0.5, "emu": 0.5}

# Codes found in any neurology record, with no trace here: code, probability.
OTHER_CODES = {
    "R55": 0.12,
    "R56.9": 0.2,
    "R41.82": 0.15,
    "R51.9": 0.12,
    "G62.9": 0.06,
    "G25.0": 0.04,
}
OTHER_DRUGS = {"N02BE01": 0.3, "N02BF01": 0.08, "N02CC01": 0.03, "N04BA02": 0.04}
