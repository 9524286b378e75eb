"""Habits and slips of writing: abbreviations, spelling, old terms, typos, words misheard."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

from openclef.simulate.reports.authors import Author
from openclef.simulate.reports.dice import Dice

_ABBREVIATED = {
    "posterior dominant rhythm": "PDR", "generalized rhythmic delta activity": "GRDA",
    "lateralized rhythmic delta activity": "LRDA", "lateralized periodic discharges": "LPDs",
    "generalized periodic discharges": "GPDs", "bilateral independent periodic discharges": "BIPDs",
    "hyperventilation": "HV", "photic stimulation": "PS", "status post": "s/p",
    "history of": "h/o", "patient": "pt", "without": "w/o", "with": "w/",
    "photoparoxysmal response": "PPR", "benign epileptiform transients of sleep": "BETS",
    "rule out": "r/o", "nonconvulsive status epilepticus": "NCSE",
}  # fmt: skip
_OLD_TERMS = {
    "lateralized periodic discharges": "PLEDs",
    "generalized periodic discharges": "GPEDs",
    "bilateral independent periodic discharges": "BiPLEDs",
    "frontally predominant generalized rhythmic delta activity":
        "frontal intermittent rhythmic delta activity",
    "stage n2 sleep": "stage II sleep", "n2 sleep": "stage II sleep",
    "benign epileptiform transients of sleep": "small sharp spikes",
    "focal seizures with impaired awareness": "complex partial seizures",
}  # fmt: skip
_BRITISH = {
    "generalized": "generalised", "lateralized": "lateralised", "organized": "organised",
    "organization": "organisation", "characterized": "characterised", "artifact": "artefact",
    "artifactual": "artefactual", "tumor": "tumour", "hemorrhage": "haemorrhage",
    "hemorrhages": "haemorrhages", "ischemic": "ischaemic", "edema": "oedema",
    "anesthetic": "anaesthetic", "hyponatremia": "hyponatraemia", "anemia": "anaemia",
    "EKG": "ECG", "apnea": "apnoea", "paresthesias": "paraesthesiae", "etiology": "aetiology",
    "hypoxic-ischemic": "hypoxic-ischaemic", "hyperlipidemia": "hyperlipidaemia",
    "behavior": "behaviour", "subarachnoid hemorrhage": "subarachnoid haemorrhage",
}  # fmt: skip
_MISHEARD = {
    "theta": "data", "photic": "phobic", "posterior": "post area", "sharp waves": "sharp weighs",
    "sharply contoured": "sharply counted", "spindles": "swindles", "montages": "montage is",
    "polymorphic": "polymorphous", "attenuated": "at tenuated", "symmetric": "a symmetric",
    "myogenic": "my genic", "buildup": "bill up",
}  # fmt: skip
# A slip in these would say something else.
_SPARED = frozenset({"without", "absent", "normal", "abnormal", "neither", "uninterpretable"})
_WORD = re.compile(r"[A-Za-z]{5,}")
_SIDE = re.compile(r"\b(left|right)\b")
_WRONG_SIDE = 0.008


def in_style(text: str, author: Author) -> str:
    """Write a text with an author's terms, abbreviations and spelling."""
    if author.old_terms:
        text = _replaced(text, "old")
    if author.abbreviated:
        text = _replaced(text, "abbreviated")
    if author.british:
        text = _replaced(text, "british")
    return text


def with_slips(text: str, author: Author, dice: Dice) -> str:
    """Put in what an author mistypes or a transcriber mishears; now and then a wrong side."""
    if dice.chance(author.dictation):
        present = [word for word in _MISHEARD if re.search(rf"\b{word}\b", text)]
        for word in dice.some(present, 1):
            text = re.sub(rf"\b{word}\b", _MISHEARD[word], text, count=1)
    sides = list(_SIDE.finditer(text))
    if sides and dice.chance(_WRONG_SIDE):
        match = dice.pick(sides)
        other = "right" if match[0] == "left" else "left"
        text = text[: match.start()] + other + text[match.end() :]
    words = list(_WORD.finditer(text))
    n_slips = int(dice.rng.poisson(author.typos * len(text.split()) / 150))
    # From the end, so that positions stay.
    for match in sorted(dice.some(words, n_slips), key=lambda match: -match.start()):
        if match[0].lower() not in _SPARED:
            text = text[: match.start()] + _mistyped(match[0], dice) + text[match.end() :]
    return text


def _mistyped(word: str, dice: Dice) -> str:
    at = 1 + int(dice.rng.random() * (len(word) - 2))
    kind = dice.rng.random()
    if kind < 0.5:
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return word[:at] + word[at + 1 :] if kind < 0.8 else word[:at] + word[at] + word[at:]


@cache
def _pattern(kind: str) -> tuple[re.Pattern[str], Mapping[str, str]]:
    table = {"old": _OLD_TERMS, "abbreviated": _ABBREVIATED, "british": _BRITISH}[kind]
    longest_first = sorted(table, key=len, reverse=True)
    pattern = re.compile(rf"\b({'|'.join(map(re.escape, longest_first))})\b", re.IGNORECASE)
    return pattern, {term.lower(): new for term, new in table.items()}


def _replaced(text: str, kind: str) -> str:
    pattern, table = _pattern(kind)

    def new(match: re.Match[str]) -> str:
        word = table[match[0].lower()]
        # The capital of a sentence stays.
        return word[:1].upper() + word[1:] if match[0][:2].istitle() else word

    return pattern.sub(new, text)
