"""Grammar of channel labels: `EEG FP1-REF` -> the electrode Fp1 against the reference REF.

A label is an electrode of the 10-5 system, perhaps against a reference or a second electrode:
`EEG FP1-REF`, `C3:M2`, `Fp1-F7`. Anything else beside the electrode makes it none. What may be
shown of a label is decided here, too: a header's text can hold a patient's name.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from openclef.types import CHANNELS

NOT_STATED = "not stated"

# T3=T7, T4=T8, T5=P7, T6=P8: the two generations of the 10-20 system (paper.md, Signal [C]).
_RENAMED = {"T7": "T3", "T8": "T4", "P7": "T5", "P8": "T6"}
_CANONICAL = {name.upper(): name for name in CHANNELS} | _RENAMED
EARS = frozenset(("A1", "A2", "M1", "M2"))

# Rows of the 10-5 system (Oostenveld and Praamstra 2001) and their numbers, each also with z or h;
# beside them the earlobes, the mastoids and the sphenoidal, nasopharyngeal and old T1/T2 sites.
ROWS = {
    **dict.fromkeys(("AFP", "AF", "AFF", "F", "P", "PPO", "PO", "POO"), range(1, 11)),
    **dict.fromkeys(("FFC", "FC", "FCC", "C", "CCP", "CP", "CPP"), range(1, 7)),
    **dict.fromkeys(("FFT", "FT", "FTT", "TTP", "TP", "TPP"), range(7, 11)),
    **dict.fromkeys(("FP", "OI", "I", "A", "M", "SP", "PG"), range(1, 3)),
    **{"T": range(1, 11), "O": (1, 2, 9, 10), "N": ()},
}
_ELECTRODE = "|".join(
    f"{row}(?:{'|'.join(['Z', *(f'{number}H?' for number in numbers)])})"
    for row, numbers in ROWS.items()
)
# Common, linked (ears LE LER CLE AA, mastoids LM) and averaged references. G2 is the reference
# input of Micromed, CS2 the spine electrode of CHB-MIT's chb12.
_REFERENCE = (
    r"REF(?:ERENCE)?[0-9]{0,2}|LER?|CLE|LM|AA|A1/?A2(?:/2)?|M1/?M2(?:/2)?"
    r"|AR|AVE?|AVG|AVERAGE|CAR|G2|CS2"
)
# MNE numbers the repeats of a label -0, -1, ...; but C3-4 are two contacts of a depth electrode.
_LABEL = re.compile(
    rf"(?P<electrode>{_ELECTRODE})"
    rf"(?:-[01]|[-:/_]?(?:(?P<reference>{_REFERENCE})|(?P<other>{_ELECTRODE}))(?:-[0-9]+)?)?"
)
# One of the 19 against anything, known or not.
AGAINST = re.compile(rf"(?:{'|'.join(_CANONICAL)})[-:/_].+")
# Tables exported by acquisition software put the unit behind the name: `Fp1 [uV]`, `Fp1 uV`.
_UNIT = re.compile(r"(?: ?[\[(] ?[muµμ]?V ?[\])]| [uµμ]V)$", re.IGNORECASE)
_PREFIX = re.compile(r"^(?:EEG|POL)[-_:/]*")
# An electrode of a one-letter row is written as a contact of a grid or depth electrode is.
CONTACT = re.compile(r"(?<![A-Z])([A-Z])([0-9]{1,3})(?![0-9])")

# Words of channel labels that name no one; each may carry a number, as X1 or DC03.
_WORDS = (
    "EEG|POL|ECG|EKG|[VHRLI]?EOG|EMG|LOC|ROC|E|C[34]P|LUC|RLC|LUE|RAE|EXG|VNS|AUX|DC|GND|GROUND"
    "|PHOTIC|PH|STATUS|TRIGGER|D?TRIG|STIM?|DIG|EVENTS?|MARKERS?|ANNOTATIONS?|EDF|BDF"
    "|IBI|BURSTS?|SUPPR|PULSE|RATE|HR|BPM|PLETH|SPO2|SAO2|O?SAT|O2SAT|ETCO2|TCCO2|CO2"
    "|RESP|RESPIRATION|(?:AIR)?FLOW|NASAL|ORAL|ORO|PRES|PRESSURE|SNORE|MIC|CHEST|THOR|THORAX"
    "|ABDO?|ABDOMEN|EFFORT|POS|POSITION|TEMP|RECTAL|CHIN|SUBMENTAL|[LR]?LEG|TIB|LAT|RAT"
    "|LEFT|RIGHT|VERTICAL|HORIZONTAL|UPPER|LOWER|LIGHT|ACC|ACCEL|GYRO"
)
_KNOWN_WORD = re.compile(rf"(?:{_WORDS})[0-9]{{0,3}}|[A-Z][0-9]{{1,3}}|{_ELECTRODE}")
_KNOWN_BEHIND = re.compile(rf"{_KNOWN_WORD.pattern}|{_REFERENCE}")


class Label(NamedTuple):
    """electrode, or electrode - other; the 19 by their names in `CHANNELS`.

    reference: what the label says. letters: of the numbered electrodes, as written: P for P7.
    """

    electrode: str
    other: str | None
    reference: str
    letters: frozenset[str]


def canonical_name(label: str) -> str | None:
    """Name of the electrode a channel label stands for.

    Parameters
    ----------
    label
        As the file has it: `EEG FP1-REF`, `Fp1.`, `POL T7`, `c3-A2`.

    Returns
    -------
    str or None
        One of `types.CHANNELS`, or None: not an electrode of the 19, or a bipolar derivation
        (`Fp1-F7` is a difference of two electrodes, never Fp1).
    """
    found = parse_label(label)
    if found is None or found.electrode not in CHANNELS or found.other not in {None, *EARS}:
        return None
    return found.electrode


def shown_label(label: str, position: int) -> str:
    """Give the label if it is built of known words only, else `#position`.

    A header's text may hold anything, a patient's name too; records and logs show this instead.
    Known are the electrodes of the 10-5 system, references, the usual words of other channels
    (`ECG`, `SpO2`, `PHOTIC`, ...), a letter with a number, and one number of up to three digits.
    """
    words = re.findall(r"[^\s\-_:./+()\[\]$]+", label.upper())
    numbers = [word for word in words if re.fullmatch(r"[0-9]{1,3}", word)]
    known = [word for word in words[:1] if _KNOWN_WORD.fullmatch(word)]
    known += [word for word in words[1:] if _KNOWN_BEHIND.fullmatch(word)]
    if parse_label(label) or (
        words and len(numbers) < 2 and len(numbers) + len(known) == len(words)
    ):
        return " ".join(label.split())
    return f"#{position}"


def parse_label(label: str) -> Label | None:
    """Electrode and reference of a label, or None: no electrode, or something unknown beside it."""
    match = _LABEL.fullmatch(plain_label(label))
    if match is None:
        return None
    electrode = _electrode_name(match["electrode"])
    other = _electrode_name(match["other"]) if match["other"] else None
    reference = re.sub(r"/2$|/", "", match["reference"] or "") or other or NOT_STATED
    written = (CONTACT.fullmatch(match[group] or "") for group in ("electrode", "other"))
    letters = frozenset(contact[1] for contact in written if contact)
    return Label(electrode, other, reference, letters) if other != electrode else None


def plain_label(label: str) -> str:
    """`EEG Fp1 - Ref.` -> `FP1-REF`, `C3-(A1+A2)` -> `C3-A1A2`."""
    without_unit = _UNIT.sub("", " ".join(label.split()))
    return _PREFIX.sub("", re.sub(r"[\s.()\[\]+]", "", without_unit).upper())


def _electrode_name(upper: str) -> str:
    """`FP1` -> `Fp1`, `T7` -> `T3`, `FCZ` -> `FCz`."""
    return _CANONICAL.get(upper) or re.sub("(?<=F)P|[ZH]", lambda hit: hit[0].lower(), upper)
