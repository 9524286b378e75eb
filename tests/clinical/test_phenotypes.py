"""Phenotypes and findings as tasks."""

from __future__ import annotations

import pytest

from openclef.clinical import (
    DISEASES,
    FINDINGS,
    MEDICATIONS,
    Phenotype,
    label,
    load_codes,
    meds_code,
)

BY_NAME = {phenotype.name: phenotype for phenotype in (*DISEASES, *MEDICATIONS)}


def test_names_are_unique() -> None:
    names = [*(p.name for p in (*DISEASES, *MEDICATIONS)), *(f.name for f in FINDINGS)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("phenotype", BY_NAME.values(), ids=lambda p: p.name)
def test_each_prefix_covers_a_listed_code(phenotype: Phenotype) -> None:
    codes = load_codes(phenotype.system)
    for prefix in phenotype.prefixes:
        assert any(code.startswith(prefix) for code in codes), prefix


@pytest.mark.parametrize("group", [DISEASES, MEDICATIONS])
def test_no_listed_code_asserts_two_phenotypes(group: tuple[Phenotype, ...]) -> None:
    for code in load_codes(group[0].system):
        meds = meds_code(code, system=group[0].system)
        assert sum(label([meds], phenotype) for phenotype in group) <= 1, code


@pytest.mark.parametrize(
    ("codes", "name", "expected"),
    [
        (["MEDS_BIRTH", "ICD10CM//G40.109"], "epilepsy_focal", True),
        (["ICD10CM//G40.109"], "epilepsy_generalized", False),
        (["ICD10CM//G40.909"], "epilepsy_focal", False),
        (["ATC//N03AE01"], "benzodiazepines", True),
        (["ATC//N03AX09"], "levetiracetam", False),
        (["ICD10CM//N05.2"], "antipsychotics", False),
        ([], "migraine", False),
    ],
)
def test_a_code_asserts_its_phenotype_only(codes: list[str], name: str, expected: bool) -> None:
    assert label(codes, BY_NAME[name]) is expected


def test_there_are_15_findings_the_first_four_from_the_paper() -> None:
    assert len(FINDINGS) == 15
    first = ("sleep", "generalized_slowing", "posterior_dominant_rhythm", "diffuse_beta")
    assert tuple(finding.name for finding in FINDINGS[:4]) == first
    assert len({finding.heedb_flag for finding in FINDINGS}) == 15
