"""Who the patients are, what is written about them and what their records say."""

from __future__ import annotations

from datetime import datetime

import pytest
from pydantic import ValidationError

from openclef.clinical import (
    DISEASES,
    FINDINGS,
    MEDICATIONS,
    label,
    load_codes,
    meds_code,
    split_code,
)
from openclef.simulate import SimulationConfig, causes
from openclef.simulate.notes import read_session, true_findings
from openclef.simulate.patients import Patient, draw_patient
from openclef.simulate.records import patient_events

CONFIG = SimulationConfig(n_patients=320, seed=3)


@pytest.fixture(scope="module")
def patients() -> list[Patient]:
    return [draw_patient(CONFIG, index=index) for index in range(CONFIG.n_patients)]


def test_causes_are_named_as_the_phenotypes() -> None:
    assert list(causes.DISEASES) == [phenotype.name for phenotype in DISEASES]
    assert list(causes.MEDICATIONS) == [phenotype.name for phenotype in MEDICATIONS]
    for disease in causes.DISEASES.values():
        assert set(disease.findings) <= set(causes.FINDINGS)
        assert set(disease.medications) <= set(causes.MEDICATIONS)


def test_simulated_codes_are_listed_and_assert_their_phenotype_alone() -> None:
    by_name = {phenotype.name: phenotype for phenotype in (*DISEASES, *MEDICATIONS)}
    emitted = {name: disease.codes for name, disease in causes.DISEASES.items()}
    emitted |= {
        name: tuple(code for code, _ in drug.drugs) for name, drug in causes.MEDICATIONS.items()
    }
    for name, codes in emitted.items():
        for code in codes:
            system = by_name[name].system
            assert code in load_codes(system)
            meds = meds_code(code, system=system)
            assert [p.name for p in by_name.values() if label([meds], p)] == [name]
    assert set(causes.OTHER_CODES) <= set(load_codes("ICD10CM"))
    assert set(causes.OTHER_DRUGS) <= set(load_codes("ATC"))


def test_null_disease_and_medication_lead_to_nothing() -> None:
    migraine, thyroid = causes.DISEASES["migraine"], causes.MEDICATIONS["thyroid_hormones"]
    assert not migraine.findings
    assert not migraine.medications
    assert not migraine.slowing_hz
    assert not thyroid.gains
    assert not thyroid.findings
    assert not thyroid.slowing_hz


def test_a_patient_depends_on_seed_and_index_alone(patients: list[Patient]) -> None:
    assert draw_patient(CONFIG, index=7) == patients[7]
    other = SimulationConfig(n_patients=320, seed=4)
    assert draw_patient(other, index=7) != patients[7]


def test_streams_of_one_patient_differ() -> None:
    streams = ("patient", "signal", "notes", "records")
    draws = {CONFIG.generator(stream, patient=2).random() for stream in streams}
    draws |= {CONFIG.generator("signal", patient=2, session=1).random()}
    assert len(draws) == 5


def test_common_and_rare_tasks_both_exist(patients: list[Patient]) -> None:
    n_first = 96  # a held-out share of 30%
    codes = [[e.code for e in patient_events(p, config=CONFIG)] for p in patients[:n_first]]
    readings = [read_session(p, p.sessions[0], config=CONFIG) for p in patients[:n_first]]
    n_positive = [sum(label(c, p) for c in codes) for p in (*DISEASES, *MEDICATIONS)]
    n_positive += [sum(r.findings[f.name] is True for r in readings) for f in FINDINGS]
    assert sum(n >= 15 for n in n_positive) >= len(n_positive) // 2
    assert sum(0 < n < 15 for n in n_positive) >= 5


def test_disease_makes_its_finding_more_likely(patients: list[Patient]) -> None:
    with_stroke = [p for p in patients if "stroke" in p.diseases]
    without = [p for p in patients if "stroke" not in p.diseases]

    def share(group: list[Patient]) -> float:
        return sum("focal_slowing" in p.sessions[0].findings for p in group) / len(group)

    assert share(with_stroke) > 1.5 * share(without)


def test_reports_agree_with_the_truth_but_for_some_errors(patients: list[Patient]) -> None:
    n_stated = n_wrong = 0
    for patient in patients:
        for session in patient.sessions:
            said = read_session(patient, session, config=CONFIG).findings
            for name, truth in true_findings(session).items():
                n_stated += said[name] is not None
                n_wrong += said[name] is not None and said[name] is not truth
    assert 0.005 < n_wrong / n_stated < 0.08


def test_reports_have_sections_and_silent_findings(patients: list[Patient]) -> None:
    readings = [read_session(p, p.sessions[0], config=CONFIG) for p in patients[:60]]
    for reading in readings:
        text = reading.text.upper()
        for heading in ("HISTORY:", "MEDICATIONS:", "TECHNI", "IMPRESSION:"):
            assert heading in text
        assert "DESCRIPTION OF THE RECORD:" in text or "FINDINGS:" in text
        assert "{" not in text
        assert set(reading.findings) == {finding.name for finding in FINDINGS}
        assert reading.findings["seizure"] is None
        assert reading.findings["abnormal"] is ("Abnormal EEG" in reading.text)
    assert len({reading.text.split(maxsplit=1)[0] for reading in readings}) == 3


def test_records_are_sorted_and_start_with_static_facts(patients: list[Patient]) -> None:
    recorded = [p for p in patients if p.has_record]
    assert 0 < len(patients) - len(recorded) < 0.15 * len(patients)
    for patient in recorded:
        events = patient_events(patient, config=CONFIG)
        times = [event.time or datetime.min for event in events]
        assert times == sorted(times)
        assert [split_code(event.code)[0] for event in events[:3]] == ["GENDER", "RACE", ""]
        assert events[2].code == "MEDS_BIRTH"
        n_eeg = sum(event.eeg_uri is not None for event in events)
        assert n_eeg == len(patient.sessions)


def test_patients_without_a_record_have_no_events(patients: list[Patient]) -> None:
    silent = next(p for p in patients if not p.has_record)
    assert patient_events(silent, config=CONFIG) == ()


def test_drugs_are_ordered_before_the_session(patients: list[Patient]) -> None:
    patient = next(p for p in patients if p.has_record and len(p.sessions[0].drugs) >= 3)
    codes = {f"ATC//{code}" for code, _ in patient.sessions[0].drugs.values()}
    orders = [e.time for e in patient_events(patient, config=CONFIG) if e.code in codes]
    assert orders
    assert all(order is not None and order < patient.sessions[-1].start for order in orders)


@pytest.mark.parametrize("bad", [{"n_sites": 9}, {"sfreq_hz": 256.5}, {"minutes": 20}])
def test_impossible_configurations_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        SimulationConfig(**bad)
