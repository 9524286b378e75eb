"""Diagnosis and medication codes: the package's own lists and their MEDS spelling.

The lists are bare codes from ICD-10-CM (public domain) and of the ATC classification: neurology
and its neighbours, and the groups N, L and H (paper.md, Clinical alignment [P]+[C]).
"""

from __future__ import annotations

import json
from collections.abc import Collection
from functools import cache
from importlib import resources

from openclef.errors import OpenclefError, choose

ICD10CM = "ICD10CM"
ATC = "ATC"
_LISTS = {ICD10CM: "icd10_neurology.json", ATC: "atc_nlh.json"}


@cache
def load_codes(system: str) -> tuple[str, ...]:
    """Return the package's sorted codes of a system, `"ICD10CM"` or `"ATC"`.

    Raises
    ------
    OpenclefError
        If the system is another one.
    """
    name = _LISTS[choose(system, _LISTS, "code system")]
    text = (resources.files("openclef.clinical") / name).read_text(encoding="utf-8")
    return tuple(json.loads(text))


def meds_code(code: str, *, system: str) -> str:
    """Spell a bare code as MEDS has it: `G40.909` -> `ICD10CM//G40.909`."""
    return f"{choose(system, _LISTS, 'code system')}//{code}"


def split_code(meds: str) -> tuple[str, str]:
    """Split a MEDS code into its system and the rest: `ATC//N03AX14` -> `("ATC", "N03AX14")`.

    A code without a system, such as `MEDS_BIRTH`, has the system `""`. Systems other than ours
    (`EEG`, `RACE`, `LOINC`, ...) are returned as they are.

    Raises
    ------
    OpenclefError
        If the code is empty.
    """
    if not meds:
        raise OpenclefError("an empty string is not a MEDS code; allowed: SYSTEM//CODE")
    system, separator, rest = meds.partition("//")
    return (system, rest) if separator else ("", meds)


def nearest_code(code: str, vocabulary: Collection[str]) -> str | None:
    """Return the code itself or its longest ancestor in the vocabulary, None if there is none.

    Both systems spell an ancestor as a prefix: G40.909 -> G40.90 -> G40.9 -> G40, and
    N03AX14 -> N03AX -> N03A. Give a set where many codes are asked for. Both sides must be
    spelled alike (both bare, or both as in MEDS).
    """
    for end in range(len(code), 0, -1):
        ancestor = code[:end]
        if ancestor in vocabulary:
            return ancestor
    return None
