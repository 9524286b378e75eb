"""Code lists and their MEDS spelling."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from openclef.clinical import ATC, ICD10CM, load_codes, meds_code, nearest_code, split_code
from openclef.errors import OpenclefError


@pytest.mark.parametrize("system", [ICD10CM, ATC])
def test_lists_are_sorted_and_unique(system: str) -> None:
    codes = load_codes(system)
    assert list(codes) == sorted(set(codes))


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("system", "name"), [(ICD10CM, "icd10_neurology.json"), (ATC, "atc_nlh.json")]
)
def test_lists_contain_the_paper_vocabularies(real_data: Path, system: str, name: str) -> None:
    path = real_data.parent / "vocab" / name
    if not path.exists():
        pytest.skip(f"no {path.name} beside the real data")
    assert set(json.loads(path.read_text())) <= set(load_codes(system))


def test_unknown_system_names_the_allowed_ones() -> None:
    with pytest.raises(OpenclefError, match=r"'ICD9'.*ATC, ICD10CM"):
        load_codes("ICD9")


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("G40.9", "G40.9"),
        ("G40.909", "G40.9"),
        ("G40.119", "G40"),
        ("N03AX14", "N03AX"),
        ("N03AF01", None),
        ("I63.9", None),
    ],
)
def test_nearest_code_is_itself_or_the_longest_ancestor(code: str, expected: str | None) -> None:
    assert nearest_code(code, {"G40", "G40.9", "N03AX", "N05"}) == expected


def test_meds_spelling_round_trips() -> None:
    assert meds_code("G40.909", system=ICD10CM) == "ICD10CM//G40.909"
    assert split_code("ICD10CM//G40.909") == (ICD10CM, "G40.909")
    assert split_code("MEDS_BIRTH") == ("", "MEDS_BIRTH")
    with pytest.raises(OpenclefError, match="empty"):
        split_code("")
