"""Health records of simulated patients: what is coded follows from what is true, with errors."""

from __future__ import annotations

from datetime import datetime, time, timedelta

import numpy as np
import pytest
from meds import birth_code

from openclef.clinical import ATC, DISEASES, ICD10CM, MEDICATIONS, label, load_codes, meds_code
from openclef.clinical.phenotypes import asserted
from openclef.simulate import SimulationConfig
from openclef.simulate.parameters import load_hospital
from openclef.simulate.patients import Patient
from openclef.simulate.people import draw_patient
from openclef.simulate.records import Event, patient_events

CONFIG = SimulationConfig(n_patients=1500, seed=11, n_sites=4)
HOSPITAL = load_hospital(CONFIG.hospital)
PHENOTYPES = {phenotype.name: phenotype for phenotype in (*DISEASES, *MEDICATIONS)}

People = list[tuple[Patient, tuple[Event, ...]]]


@pytest.fixture(scope="module")
def people() -> People:
    patients = [draw_patient(CONFIG, index=index) for index in range(CONFIG.n_patients)]
    return [(patient, patient_events(patient, config=CONFIG)) for patient in patients]


@pytest.fixture(scope="module")
def recorded(people: People) -> People:
    return [(patient, events) for patient, events in people if patient.has_record]


def codes_of(events: tuple[Event, ...], name: str) -> list[Event]:
    return [event for event in events if label([event.code], PHENOTYPES[name])]


def test_no_record_means_no_event(people: People) -> None:
    without = [events for patient, events in people if not patient.has_record]
    assert len(without) / len(people) == pytest.approx(HOSPITAL.noise.no_record, abs=0.02)
    assert all(events == () for events in without)


def test_events_are_sorted_and_nothing_but_sex_and_race_is_static(recorded: People) -> None:
    for _, events in recorded:
        times = [event.time or datetime.min for event in events]
        assert times == sorted(times)
        coded = {event.code for event in events}
        assert {birth_code} < coded
        assert sum(code.startswith(("GENDER//", "RACE//")) for code in coded) == 2
    timeless = [e for _, events in recorded for e in events if e.time is None]
    assert all(event.code.startswith(("GENDER//", "RACE//")) for event in timeless)


def test_a_disease_is_coded_after_its_onset_and_mostly_so(recorded: People) -> None:
    n_true = n_coded = n_early = n_late = 0
    for patient, events in recorded:
        first_session = patient.sessions[0].start
        for name, onset in patient.diseases.items():
            n_true += 1
            found = [event for event in codes_of(events, name) if event.time]
            n_coded += bool(found)
            n_early += any(e.time < datetime.combine(onset, time()) for e in found if e.time)
            if found and onset < first_session.date():
                n_late += min(e.time for e in found if e.time) > first_session + timedelta(days=20)
    assert n_coded / n_true == pytest.approx(1 - HOSPITAL.noise.unrecorded, abs=0.02)
    # Wrong and background codes may come before.
    assert n_early / n_coded < 0.01
    assert 0.08 < n_late / n_coded < 0.4


def test_wrong_codes_are_as_rare_as_the_hospital_says(recorded: People) -> None:
    n_absent = n_wrong = 0
    for patient, events in recorded:
        absent = HOSPITAL.diseases.keys() - patient.diseases.keys()
        n_absent += len(absent)
        n_wrong += len(absent & {asserted(event.code) for event in events})
    assert n_wrong / n_absent == pytest.approx(HOSPITAL.noise.wrong, rel=0.3)


def test_diagnoses_are_coded_at_visits(recorded: People) -> None:
    for _, events in recorded:
        visits = {event.time for event in events if event.code.startswith("VISIT//")}
        diagnoses = {e.time for e in events if e.code.startswith(ICD10CM) and e.time}
        assert diagnoses <= visits


def test_drugs_are_ordered_before_the_session_that_shows_them(recorded: People) -> None:
    n_taken = n_ordered = 0
    for patient, events in recorded:
        for session in patient.sessions:
            for code, _ in session.drugs.values():
                n_taken += 1
                orders = [e for e in events if e.code == meds_code(code, system=ATC)]
                near = timedelta(days=4 if session.setting == "icu" else 120)
                n_ordered += any(
                    e.time is None or session.start - near <= e.time <= session.start
                    for e in orders
                )
    assert n_ordered / n_taken == pytest.approx(1 - HOSPITAL.noise.unrecorded, abs=0.03)


def test_side_codes_tell_the_side_of_the_lesion(recorded: People) -> None:
    sides = {
        code: side
        for disease in HOSPITAL.diseases.values()
        for side, codes in (("left", disease.left_codes), ("right", disease.right_codes))
        for code in codes
    }
    told = [
        sides[code] == patient.side
        for patient, events in recorded
        for event in events
        if (code := event.code.removeprefix(f"{ICD10CM}//")) in sides
    ]
    assert len(told) > 50
    assert np.mean(told) > 0.97


def test_visits_have_the_kind_that_the_setting_asks_for(recorded: People) -> None:
    kind = {"routine": "OUTPATIENT", "ltm": "INPATIENT", "emu": "INPATIENT", "icu": "ICU"}
    for patient, events in recorded[:200]:
        for session in patient.sessions:
            before = [
                e.code
                for e in events
                if e.time and timedelta(0) <= session.start - e.time <= timedelta(days=1)
            ]
            assert f"VISIT//{kind[session.setting]}" in before


def test_each_session_has_an_eeg_event_with_its_recording() -> None:
    patient = next(
        patient
        for index in range(50)
        if len((patient := draw_patient(CONFIG, index=index)).sessions) > 1 and patient.has_record
    )
    uris = [f"{number}.edf" for number in range(len(patient.sessions))]
    events = patient_events(patient, config=CONFIG, uris=uris)
    found = [(event.time, event.eeg_uri) for event in events if event.eeg_uri]
    assert found == [(s.start, uri) for s, uri in zip(patient.sessions, uris, strict=True)]
    bare = patient_events(patient, config=CONFIG)
    assert [event.code for event in bare] == [event.code for event in events]


def test_nearly_every_listed_code_occurs_and_no_other(recorded: People) -> None:
    seen = {event.code for _, events in recorded for event in events}
    for system, share in ((ICD10CM, 0.97), (ATC, 0.85)):
        listed = {meds_code(code, system=system) for code in load_codes(system)}
        ours = {code for code in seen if code.startswith(f"{system}//")}
        assert ours <= listed
        assert len(ours) / len(listed) > share


def test_codes_of_no_task_come_whatever_the_patient_has(recorded: People) -> None:
    prefixes = tuple(prefix for p in PHENOTYPES.values() for prefix in p.prefixes)
    n_diseases = np.array([len(patient.diseases) for patient, _ in recorded])
    n_background = np.array(
        [
            len(
                {
                    e.code
                    for e in events
                    if e.code.startswith(ICD10CM)
                    and not e.code.removeprefix(f"{ICD10CM}//").startswith(prefixes)
                }
            )
            for _, events in recorded
        ]
    )
    assert 0.05 < n_background.mean() < 2
    assert abs(np.corrcoef(n_diseases, n_background)[0, 1]) < 0.3


def test_the_same_patient_has_the_same_record_whatever_the_number_of_patients() -> None:
    few = CONFIG.model_copy(update={"n_patients": 3})
    for index in range(3):
        patient = draw_patient(CONFIG, index=index)
        assert patient_events(patient, config=CONFIG) == patient_events(patient, config=few)


def test_only_what_was_ordered_is_stopped(recorded: People) -> None:
    n_stops = 0
    for _, events in recorded:
        ordered: set[str] = set()
        for event in events:
            if event.code.startswith("MEDICATION//STOP//"):
                n_stops += 1
                assert event.code.removeprefix("MEDICATION//STOP//") in ordered
            ordered.add(event.code)
    assert n_stops > 50


def test_a_code_is_not_used_before_there_was_one(recorded: People) -> None:
    days = [e.time for _, events in recorded for e in events
            if e.code == meds_code("F32.A", system=ICD10CM) and e.time]  # fmt: skip
    assert all(day >= datetime(2021, 10, 1) for day in days)
