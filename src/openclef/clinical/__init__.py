"""What the clinic says: codes (ICD-10-CM, ATC), phenotypes built on them, and EEG findings."""

from openclef.clinical.codes import (
    ATC,
    ICD10CM,
    load_codes,
    meds_code,
    nearest_code,
    split_code,
)
from openclef.clinical.findings import FINDINGS, Finding
from openclef.clinical.phenotypes import DISEASES, MEDICATIONS, Phenotype, label

__all__ = [
    "ATC",
    "DISEASES",
    "FINDINGS",
    "ICD10CM",
    "MEDICATIONS",
    "Finding",
    "Phenotype",
    "label",
    "load_codes",
    "meds_code",
    "nearest_code",
    "split_code",
]
