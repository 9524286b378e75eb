"""Reports: what a neurologist writes about a session, with the errors that readers make.

A reader misses or over-calls a finding now and then, hedges, and leaves out what goes without
saying. `Reading.findings` holds what the text says, which is not always what is true.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from openclef.clinical import FINDINGS
from openclef.simulate.patients import Patient, Session, Sign, SimulationConfig

MISS_PROBABILITY = 0.07
OVERCALL_PROBABILITY = 0.003
# Benign sharp transients and drowsiness are over-read more often than patterns are invented.
_OVERCALLED = {"sleep": 0.02, "generalized_slowing": 0.04, "focal_slowing": 0.04, "spikes": 0.03}

# Probability that an absent finding is said to be absent; a present one is always stated.
_NEGATIVE_STATED = {
    "sleep": 0.85,
    "generalized_slowing": 0.7,
    "posterior_dominant_rhythm": 0.9,
    "diffuse_beta": 0.4,
    "focal_slowing": 0.75,
    "spikes": 0.9,
    "lpd": 0.45,
    "gpd": 0.45,
    "burst_suppression": 0.4,
    "low_voltage": 0.4,
    "spindles": 0.5,
}
_ABNORMAL = ("generalized_slowing", "focal_slowing", "spikes", "lpd", "gpd", "burst_suppression")

_STATED = {
    "sleep": ("Stage II sleep was recorded.", "The patient fell asleep during the recording."),
    "generalized_slowing": (
        "There was {hedge}diffuse theta and delta slowing of the background.",
        "{hedge}generalized polymorphic slowing was seen throughout.",
    ),
    "posterior_dominant_rhythm": (
        "The posterior dominant rhythm was {alpha:g} Hz and reactive to eye opening.",
        "A well formed {alpha:g} Hz alpha rhythm attenuated with eye opening.",
    ),
    "diffuse_beta": (
        "{hedge}excess diffuse beta activity was present.",
        "There was {hedge}abundant low amplitude fast activity over both hemispheres.",
    ),
    "focal_slowing": (
        "{hedge}{where} slowing was seen, in the delta and theta range.",
        "There was {hedge}intermittent polymorphic delta over the {where} region.",
    ),
    "spikes": (
        "{hedge}epileptiform discharges were seen, {kind}.",
        "There were {hedge}interictal discharges: {kind}.",
    ),
    "lpd": ("{hedge}lateralized periodic discharges over the {where} region at about 1 Hz.",),
    "gpd": ("{hedge}generalized periodic discharges{morphology} were seen.",),
    "burst_suppression": ("The background was {hedge}burst suppression.",),
    "low_voltage": ("The background was {hedge}of low voltage throughout.",),
    "spindles": ("Symmetric sleep spindles were present.", "Spindles were seen in stage II."),
}
_DENIED = {
    "sleep": ("Sleep was not recorded.", "The patient remained awake and drowsy."),
    "generalized_slowing": ("There was no generalized slowing.", "No diffuse slowing."),
    "posterior_dominant_rhythm": (
        "No posterior dominant rhythm was seen.",
        "The posterior dominant rhythm was absent.",
    ),
    "diffuse_beta": ("There was no excess of fast activity.",),
    "focal_slowing": ("No focal slowing was seen.", "There was no clear focal abnormality."),
    "spikes": (
        "No epileptiform discharges were recorded.",
        "There were no definite spikes or sharp waves.",
    ),
    "lpd": ("No lateralized periodic discharges.",),
    "gpd": ("No generalized periodic pattern was seen.",),
    "burst_suppression": ("The background was continuous, without suppression.",),
    "low_voltage": ("Voltage was normal.", "Amplitudes were in the normal range."),
    "spindles": ("No spindles were seen.", "There were no sleep transients."),
}
_CONCLUDED = {
    "generalized_slowing": "Generalized slowing, which suggests a diffuse encephalopathy.",
    "focal_slowing": "Focal slowing, {where}, which suggests a structural lesion there.",
    "spikes": "Epileptiform discharges ({kind}), which indicate a tendency to seizures.",
    "lpd": "Lateralized periodic discharges, {where}.",
    "gpd": "Generalized periodic discharges{morphology}.",
    "burst_suppression": "Burst suppression, a severe diffuse dysfunction or sedation.",
}
_HISTORY = {
    "epilepsy_focal": "focal epilepsy",
    "epilepsy_generalized": "generalized epilepsy",
    "dementia": "cognitive decline",
    "stroke": "stroke",
    "brain_tumor": "a brain tumor",
    "encephalopathy": "encephalopathy",
    "anoxic_brain_injury": "cardiac arrest",
    "traumatic_brain_injury": "head trauma",
    "sleep_disorder": "a sleep disorder",
    "depression": "depression",
    "migraine": "migraine",
}
_INDICATIONS = {
    "routine": ("Spells, rule out seizures.", "Evaluate for epileptiform activity."),
    "ltm": ("Long-term monitoring for events of unclear nature.",),
    "emu": ("Characterization of seizures.", "Presurgical evaluation."),
    "icu": ("Altered mental status.", "Rule out nonconvulsive seizures."),
}


@dataclass(frozen=True)
class _Author:
    """Habits of one reader: headings in order, and how findings are laid out."""

    indication: str
    history: str
    medications: str
    technique: str
    description: str
    impression: str
    joint: str


_AUTHORS = (
    _Author(
        "INDICATION:",
        "HISTORY:",
        "MEDICATIONS:",
        "TECHNIQUE:",
        "DESCRIPTION OF THE RECORD:",
        "IMPRESSION:",
        " ",
    ),
    _Author(
        "Indication:", "History:", "Medications:", "Technique:", "FINDINGS:", "Impression:", "\n"
    ),
    _Author(
        "REASON FOR STUDY:",
        "CLINICAL HISTORY:",
        "CURRENT MEDICATIONS:",
        "TECHNICAL:",
        "EEG FINDINGS:",
        "IMPRESSION:",
        "\n- ",
    ),
)


@dataclass(frozen=True)
class Reading:
    """A report and what it says: True stated, False denied, None not mentioned (by finding)."""

    text: str
    findings: Mapping[str, bool | None]


def true_findings(session: Session) -> dict[str, bool]:
    """Return the truth in a reader's terms, by name in `clinical.FINDINGS`, simulated ones only."""
    state = session.findings
    seen = {name: name in state for name in _STATED}
    seen["posterior_dominant_rhythm"] = "absent_pdr" not in state
    seen["spikes"] = "spikes" in state or "spike_wave" in state
    seen["gpd"] = "gpd" in state or "triphasic" in state
    seen["generalized_slowing"] |= "triphasic" in state
    return seen


def read_session(patient: Patient, session: Session, *, config: SimulationConfig) -> Reading:
    """Write the report of a session.

    Parameters
    ----------
    patient, session : Patient, Session
        Who and what was recorded.
    config : SimulationConfig
        Seed and duration.

    Returns
    -------
    Reading
        The text and its findings, for all 15 names of `clinical.FINDINGS`.
    """
    rng = config.generator("notes", patient=patient.index, session=session.index)
    author = _AUTHORS[int(rng.integers(len(_AUTHORS)))]
    truth = true_findings(session)
    called = {
        name: bool(rng.random() >= MISS_PROBABILITY)
        if present
        else bool(rng.random() < _OVERCALLED.get(name, OVERCALL_PROBABILITY))
        for name, present in truth.items()
    }
    called["spindles"] &= called["sleep"]
    said: dict[str, bool | None] = dict.fromkeys(finding.name for finding in FINDINGS)
    sentences = []
    words = _words(rng, patient, session)
    for name, present in called.items():
        if not present and rng.random() >= _NEGATIVE_STATED[name]:
            continue
        said[name] = present
        doubt = (0.1 if truth[name] else 0.6) if name in _ABNORMAL else 0.05
        hedge = "possible " if present and rng.random() < doubt else ""
        choices = _STATED[name] if present else _DENIED[name]
        sentence = choices[int(rng.integers(len(choices)))].format(**words, hedge=hedge)
        sentences.append(sentence[0].upper() + sentence[1:])
    concluded = [_CONCLUDED[name].format(**words) for name in _ABNORMAL if said[name] is True]
    if said["posterior_dominant_rhythm"] is False:
        concluded.append("Absent posterior dominant rhythm.")
    said["abnormal"] = bool(concluded)
    verdict = "Abnormal EEG." if concluded else "Normal EEG for age and state."
    impression = [verdict, *(f"{n}. {line}" for n, line in enumerate(concluded, start=1))]

    indications = _INDICATIONS[session.setting]
    lines = [
        f"{author.indication} {indications[int(rng.integers(len(indications)))]}",
        f"{author.history} {_history(rng, patient, session)}",
        f"{author.medications} {_medications(session)}",
        f"{author.technique} Digital EEG, 19 electrodes of the 10-20 system, "
        f"{config.duration_s / 60:.0f} minutes.",
        f"{author.description}{author.joint}{author.joint.join(sentences)}",
        author.impression + "\n" + "\n".join(impression),
    ]
    return Reading("\n\n".join(lines) + "\n", said)


def _words(rng: np.random.Generator, patient: Patient, session: Session) -> dict[str, object]:
    """Return what fills the sentences: frequency, region, kinds of discharges."""
    guess = Sign(1.0, "left" if rng.random() < 0.5 else "right", "temporal")
    lateral = [session.findings.get(name) for name in ("focal_slowing", "spikes", "lpd")]
    sign = next((sign for sign in lateral if sign is not None), guess)
    where = f"{sign.side} {sign.region}"
    kind = "generalized 3 Hz spike and wave" if "spike_wave" in session.findings else where
    if "spikes" in session.findings and "spike_wave" in session.findings:
        kind = f"{where} and generalized"
    alpha_hz = patient.traits.alpha_hz - session.slowing_hz
    morphology = " of triphasic morphology" if "triphasic" in session.findings else ""
    return {
        "alpha": round(2 * alpha_hz) / 2,
        "where": where,
        "kind": kind,
        "morphology": morphology,
    }


def _history(rng: np.random.Generator, patient: Patient, session: Session) -> str:
    person = "woman" if patient.sex == "F" else "man"
    told = [_HISTORY[name] for name in patient.diseases if rng.random() < 0.8]
    past = f"with a history of {' and '.join(told)}" if told else "without relevant history"
    return f"A {session.age} year old {person} {past}."


def _medications(session: Session) -> str:
    return ", ".join(sorted(name for _, name in session.drugs.values())) or "None."
