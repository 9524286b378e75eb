"""What a report says before the EEG: indication, history, medications, technique.

True diseases and drugs are told for the most part; some are left out, and some that matter
nothing are added. None of it is read by the alignment, which cuts these sections off.
"""

from __future__ import annotations

from typing import Any

from openclef.simulate.patients import Patient, Session
from openclef.simulate.reports.authors import Author, load_table
from openclef.simulate.reports.dice import Dice
from openclef.simulate.reports.wording import listed, sentence

_TOLD, _TAKEN = 0.8, 0.9
_OLDEST_TOLD = 89


def present_diseases(patient: Patient, session: Session) -> list[str]:
    """Names of the diseases that have begun by the day of the session."""
    day = session.start.date()
    return [name for name, onset in patient.diseases.items() if onset <= day]


def write_case(patient: Patient, session: Session, author: Author, dice: Dice) -> dict[str, str]:
    """Return the text of the sections `indication`, `history`, `medications`, `technique`."""
    table = load_table("cases")
    told = [name for name in present_diseases(patient, session) if dice.chance(_TOLD)]
    phrases = [_disease(name, patient, table, dice) for name in told]
    return {
        "indication": _indication(told, phrases, session, table, dice),
        "history": _history(phrases, patient, session, author, table, dice),
        "medications": _medications(session, author, table, dice),
        "technique": _technique(session, author, table, dice),
    }


def syndromes(patient: Patient, session: Session) -> dict[str, str]:
    """Return flag -> name of the syndromes with a flag of their own that are known by then."""
    known = {}
    for disease, syndrome in load_table("cases")["syndromes"].items():
        if disease in present_diseases(patient, session):
            age = (patient.diseases[disease] - patient.birth).days / 365.2425
            if syndrome.get("from_age", 0) <= age <= syndrome.get("to_age", 200):
                known[syndrome["flag"]] = syndrome["name"]
    return known


def _disease(name: str, patient: Patient, table: dict[str, Any], dice: Dice) -> str:
    options = table["diseases"].get(name, [name.replace("_", " ")])
    return dice.pick(options).format(side=patient.side, region=patient.region)


def _indication(
    told: list[str], phrases: list[str], session: Session, table: dict[str, Any], dice: Dice
) -> str:
    reasons = table["reasons"]
    own = [p for name, p in zip(told, phrases, strict=True) if name in reasons["complaints"]]
    if own:
        complaint = dice.pick(own)
    elif phrases and dice.chance(0.4):
        complaint = dice.pick(reasons["with"]).format(disease=dice.pick(phrases))
    else:
        complaint = dice.pick(reasons["without"])
    return sentence(dice.pick(table["indication"][session.setting]), complaint=complaint)


def _history(
    phrases: list[str],
    patient: Patient,
    session: Session,
    author: Author,
    table: dict[str, Any],
    dice: Dice,
) -> str:
    history = table["history"]
    items = list(dict.fromkeys(phrases))
    years = int(session.age)
    is_child = years < 18
    young = "_young" if is_child else ""
    if dice.chance(0.5):
        items += dice.some(history["irrelevant" + young], 1 + int(3 * dice.rng.random()))
    words = {
        "age": "very elderly" if years > _OLDEST_TOLD else f"{years}-year-old",
        "age_short": f"{years}yo" if years <= _OLDEST_TOLD else f">{_OLDEST_TOLD}yo",
        "person": (("boy", "girl") if is_child else ("man", "woman"))[patient.sex == "F"],
        "sex_short": patient.sex,
        "list": listed(items),
    }
    kind = ("short" if author.short else "with") if items else "without"
    text = sentence(dice.pick(history[kind]), **words)
    if dice.chance(0.6 * author.verbosity):
        text += " " + " ".join(dice.some(history["events"], 1 + dice.chance(0.4)))
    return text


def _medications(session: Session, author: Author, table: dict[str, Any], dice: Dice) -> str:
    medications = table["medications"]
    drugs = [drug for _, drug in session.drugs.values() if dice.chance(_TAKEN)]
    doses = medications["doses"]
    told = [
        f"{drug} {dice.pick(doses[drug])}"
        if drug in doses and not author.short and dice.chance(0.6)
        else drug
        for drug in drugs
    ]
    if dice.chance(0.4):
        other = medications["other_young" if session.age < 18 else "other"]
        told += dice.some(other, 1 + int(2 * dice.rng.random()))
    if not told:
        return dice.pick(medications["none"])
    joint = "; " if author.layout == "checklist" else ", "
    return sentence(joint.join(dice.some(told, len(told))) + ("" if author.short else "."))


def _technique(session: Session, author: Author, table: dict[str, Any], dice: Dice) -> str:
    technique = table["technique"]
    minutes = round(session.duration_s / 60)
    words = {
        "electrodes": 19 + 2 * dice.chance(0.5),
        "minutes": f"{minutes} minutes" if minutes > 1 else f"{session.duration_s} seconds",
        "minutes_adj": f"{minutes}-minute" if minutes > 1 else f"{session.duration_s}-second",
        "video": " with video" if dice.chance(0.4) else "",
    }
    parts = [sentence(dice.pick(technique[session.setting]), **words)]
    given = [
        drug for _, drug in session.drugs.values() if drug in table["medications"]["sedatives"]
    ]
    if given and session.setting == "icu":
        parts.append(dice.pick(technique["sedated"]).format(drug=given[0]))
    elif dice.chance(0.3 * author.verbosity):
        parts.append(dice.pick(technique["unsedated"]))
    if dice.chance(0.7 * author.verbosity):
        parts.append(dice.pick(technique["extra"]))
    return " ".join(parts)
