"""Diseases and medication exposures as tasks: a name and the code prefixes that assert it.

The paper has 120 diseases and 99 medications [P]; its lists are not published [U]. Ours, in
`phenotypes.json`, are those that a clinical EEG service sees: neurology with its neighbours, and
the ATC groups N, L and H. Some leave no trace in an EEG (back pain, thyroid hormones) and serve
as controls. Codes that say too little (`N03A`, `Z82.6`) assert nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Literal

from openclef.clinical.codes import ATC, ICD10CM, split_code

Category = Literal["disease", "medication"]


@dataclass(frozen=True)
class Phenotype:
    """A task asked of the health record.

    Attributes
    ----------
    name : str
        Name of the task.
    category : {"disease", "medication"}
        Diseases are read from ICD-10-CM codes, medications from ATC codes.
    prefixes : tuple of str
        Bare code prefixes. A code asserts the phenotype of the longest prefix that it starts
        with, and no other of its category: `N03AX14` levetiracetam, `N03AX25` the antiseizure
        drugs that have no task of their own.
    """

    name: str
    category: Category
    prefixes: tuple[str, ...]

    @property
    def system(self) -> str:
        """The code system that is read, `ICD10CM` or `ATC`."""
        return ICD10CM if self.category == "disease" else ATC


def _load(category: Category) -> tuple[Phenotype, ...]:
    text = (resources.files("openclef.clinical") / "phenotypes.json").read_text(encoding="utf-8")
    table: dict[str, list[str]] = json.loads(text)[category]
    return tuple(Phenotype(name, category, tuple(prefixes)) for name, prefixes in table.items())


DISEASES = _load("disease")
MEDICATIONS = _load("medication")

_NAMES = {
    (phenotype.system, prefix): phenotype.name
    for phenotype in (*DISEASES, *MEDICATIONS)
    for prefix in phenotype.prefixes
}


# Labels ask each code of a patient for each of 219 phenotypes; codes repeat over patients.
@lru_cache(maxsize=1 << 16)
def asserted(meds: str) -> str | None:
    """Return the name of the phenotype that a MEDS code asserts, None if it asserts none."""
    system, code = split_code(meds)
    prefixes = ((system, code[:end]) for end in range(len(code), 0, -1))
    return next((_NAMES[prefix] for prefix in prefixes if prefix in _NAMES), None)


def label(codes: Iterable[str], phenotype: Phenotype) -> bool:
    """Return whether any MEDS code asserts the phenotype, one of `DISEASES` or `MEDICATIONS`.

    An empty record gives False: whether a patient without codes is a control or excluded is
    decided by who asks (the benchmark excludes them).
    """
    return any(asserted(meds) == phenotype.name for meds in codes)
