"""Diseases and medication exposures as tasks: a name and the code prefixes that assert it.

The paper has 120 diseases and 99 medications [P]; its lists are not published [U]. This release
carries the common and the hard cases of a clinical EEG service, among them one disease
(`migraine`) and one medication class (`thyroid_hormones`) that leave no trace in an EEG.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from openclef.clinical.codes import ATC, ICD10CM, split_code


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
        Bare code prefixes; a code that starts with any of them asserts the phenotype.
    """

    name: str
    category: Literal["disease", "medication"]
    prefixes: tuple[str, ...]

    @property
    def system(self) -> str:
        """The code system that is read, `ICD10CM` or `ATC`."""
        return ICD10CM if self.category == "disease" else ATC


def _disease(name: str, *prefixes: str) -> Phenotype:
    return Phenotype(name, "disease", prefixes)


def _medication(name: str, *prefixes: str) -> Phenotype:
    return Phenotype(name, "medication", prefixes)


DISEASES = (
    _disease("epilepsy_focal", "G40.0", "G40.1", "G40.2"),
    _disease("epilepsy_generalized", "G40.3", "G40.4", "G40.A", "G40.B"),
    _disease("dementia", "F01", "F02", "F03", "G30", "G31.0", "G31.83"),
    _disease("stroke", "I60", "I61", "I63", "I69"),
    _disease("brain_tumor", "C70", "C71", "C79.3", "D32.0", "D33.0", "D33.1", "D33.2", "D49.6"),
    _disease("encephalopathy", "G92", "G93.4"),
    _disease("anoxic_brain_injury", "G93.1"),
    _disease("traumatic_brain_injury", "S06"),
    _disease("sleep_disorder", "G47"),
    _disease("depression", "F32", "F33"),
    _disease("migraine", "G43"),
)

MEDICATIONS = (
    _medication("benzodiazepines", "N05BA", "N05CD", "N03AE"),
    _medication("barbiturates", "N03AA", "N05CA"),
    _medication("levetiracetam", "N03AX14"),
    _medication("valproate", "N03AG01"),
    _medication("carbamazepine_like", "N03AF"),
    _medication("antipsychotics", "N05A"),
    _medication("antidepressants", "N06A"),
    _medication("opioids", "N02A"),
    _medication("corticosteroids", "H02AB"),
    _medication("thyroid_hormones", "H03AA"),
)


def label(codes: Iterable[str], phenotype: Phenotype) -> bool:
    """Return whether any MEDS code asserts the phenotype.

    An empty record gives False: whether a patient without codes is a control or excluded is
    decided by who asks (the benchmark excludes them).
    """
    for meds in codes:
        system, code = split_code(meds)
        if system == phenotype.system and code.startswith(phenotype.prefixes):
            return True
    return False
