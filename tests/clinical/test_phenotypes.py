"""Phenotypes and findings as tasks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from openclef.clinical import (
    ATC,
    DISEASES,
    FINDINGS,
    ICD10CM,
    MEDICATIONS,
    Phenotype,
    label,
    load_codes,
    meds_code,
)
from openclef.clinical.phenotypes import asserted

BY_NAME = {phenotype.name: phenotype for phenotype in (*DISEASES, *MEDICATIONS)}


def test_there_are_120_diseases_and_99_medications_as_in_the_paper() -> None:
    assert len(DISEASES) == 120
    assert len(MEDICATIONS) == 99


def test_names_are_unique_and_plain() -> None:
    names = [*(p.name for p in (*DISEASES, *MEDICATIONS)), *(f.name for f in FINDINGS)]
    assert len(set(names)) == len(names)
    assert all(name.replace("_", "").isalnum() and name.islower() for name in names)


@pytest.mark.parametrize("phenotype", BY_NAME.values(), ids=lambda p: p.name)
def test_each_prefix_decides_a_listed_code(phenotype: Phenotype) -> None:
    for prefix in phenotype.prefixes:
        codes = [code for code in load_codes(phenotype.system) if code.startswith(prefix)]
        meds = [meds_code(code, system=phenotype.system) for code in codes]
        assert any(asserted(code) == phenotype.name for code in meds), prefix


@pytest.mark.parametrize("group", [DISEASES, MEDICATIONS], ids=["disease", "medication"])
def test_no_prefix_is_of_two_phenotypes(group: tuple[Phenotype, ...]) -> None:
    prefixes = [prefix for phenotype in group for prefix in phenotype.prefixes]
    assert len(set(prefixes)) == len(prefixes)


@pytest.mark.parametrize("group", [DISEASES, MEDICATIONS], ids=["disease", "medication"])
def test_no_listed_code_asserts_two_phenotypes(group: tuple[Phenotype, ...]) -> None:
    for code in load_codes(group[0].system):
        meds = meds_code(code, system=group[0].system)
        assert sum(label([meds], phenotype) for phenotype in group) <= 1, code


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("ICD10CM//G40.109", "epilepsy_focal"),
        ("ICD10CM//G40.901", "status_epilepticus"),
        ("ICD10CM//G40.909", "epilepsy_unspecified"),
        ("ICD10CM//G40.B19", "juvenile_myoclonic_epilepsy"),
        ("ICD10CM//S06.5X0A", "subdural_hematoma"),
        ("ICD10CM//S06.2X9A", "traumatic_brain_injury"),
        ("ICD10CM//R41.3", "amnesia"),
        ("ICD10CM//R41.82", "altered_mental_status"),
        ("ATC//N03AE01", "benzodiazepines"),
        ("ATC//N03AX14", "levetiracetam"),
        ("ATC//N03AX25", "other_antiseizure_drugs"),
        ("ATC//N05AH02", "clozapine"),
        ("ATC//N05AH", "atypical_antipsychotics"),
        ("ATC//L04AG08", "immunosuppressive_antibodies"),
        ("ATC//N03A", None),
        ("ICD10CM//Z82.6", None),
        ("ICD10CM//N05.2", None),
        ("ATC//G40.909", None),
        ("MEDS_BIRTH", None),
    ],
)
def test_the_longest_prefix_decides(code: str, name: str | None) -> None:
    assert asserted(code) == name


def test_a_record_asserts_what_any_of_its_codes_does() -> None:
    record = ["MEDS_BIRTH", "ICD10CM//G40.109", "ATC//N03AX09"]
    held = {name for name, phenotype in BY_NAME.items() if label(record, phenotype)}
    assert held == {"epilepsy_focal", "lamotrigine"}
    assert not any(label([], phenotype) for phenotype in BY_NAME.values())


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("system", "name"), [(ICD10CM, "icd10_neurology.json"), (ATC, "atc_nlh.json")]
)
def test_nearly_all_codes_of_the_paper_vocabularies_assert_a_phenotype(
    real_data: Path, system: str, name: str
) -> None:
    path = real_data.parent / "vocab" / name
    if not path.exists():
        pytest.skip(f"no {path.name} beside the real data")
    codes = json.loads(path.read_text())
    asserting = [code for code in codes if asserted(meds_code(code, system=system))]
    assert len(asserting) > 0.95 * len(codes)


def test_there_are_15_findings_the_first_four_from_the_paper() -> None:
    assert len(FINDINGS) == 15
    first = ("sleep", "generalized_slowing", "posterior_dominant_rhythm", "diffuse_beta")
    assert tuple(finding.name for finding in FINDINGS[:4]) == first
    assert len({finding.heedb_flag for finding in FINDINGS}) == 15
