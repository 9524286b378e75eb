import pytest

from openclef.cohort.reports import electrographic_text

REPORT = """
EEG REPORT
INDICATION: Seizures, on levetiracetam.
HISTORY: 54 year old with glioblastoma: resected.
MEDICATIONS: Levetiracetam, lorazepam.
DESCRIPTION OF THE RECORD: The background shows 9 Hz alpha.
Left temporal slowing is present.
IMPRESSION:
Abnormal EEG because of focal slowing.
RECOMMENDATION: Continue levetiracetam.
"""


def test_only_findings_and_impression_enter():
    text = electrographic_text(REPORT)
    assert text == (
        "The background shows 9 Hz alpha. Left temporal slowing is present.\n"
        "Abnormal EEG because of focal slowing."
    )


@pytest.mark.parametrize("word", ["levetiracetam", "lorazepam", "glioblastoma", "54 year"])
def test_history_and_drugs_are_cut_off(word):
    assert word not in electrographic_text(REPORT).lower()


def test_an_unknown_heading_ends_a_section_rather_than_joining_it():
    text = electrographic_text("Findings: normal.\nPlan of care: start valproate.")
    assert text == "normal."


def test_without_a_known_section_there_is_no_text():
    assert electrographic_text("") is None
    assert electrographic_text("History: epilepsy.") is None
    assert electrographic_text("Just prose about a seizure.") is None
    assert electrographic_text("IMPRESSION:\n\n") is None


@pytest.mark.parametrize(
    "heading",
    ["BACKGROUND HISTORY:", "IMPRESSION AND PLAN:", "CURRENT MEDICATIONS, AEDS:", "MEDICATIONS\n",
     "2. History:", "**Medications:**", "Plan -", "- Drugs:"],
)  # fmt: skip
def test_a_heading_in_any_dress_closes_the_section_before(heading):
    text = electrographic_text(f"FINDINGS: alpha of 9 Hz.\n{heading} levetiracetam 500 mg.")
    assert text == "alpha of 9 Hz."


def test_a_colon_in_a_listed_finding_is_no_heading():
    text = electrographic_text("FINDINGS:\n- There were interictal discharges: left.\n- Alpha.")
    assert text == "- There were interictal discharges: left. - Alpha."
