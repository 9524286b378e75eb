"""Who the simulated patients are, and that causes act as the table says."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta

import numpy as np
import pytest

from openclef.simulate.config import SimulationConfig
from openclef.simulate.findings import PATTERNS
from openclef.simulate.parameters import load_hospital
from openclef.simulate.patients import Patient
from openclef.simulate.people import draw_patient
from openclef.simulate.traits import TRAITS

CONFIG = SimulationConfig(n_patients=1500, seed=2, n_sites=4)
HOSPITAL = load_hospital(CONFIG.hospital)


@pytest.fixture(scope="module")
def patients() -> list[Patient]:
    return [draw_patient(CONFIG, index=index) for index in range(CONFIG.n_patients)]


def share(patients: list[Patient], holds: Callable[[Patient], bool]) -> float:
    return float(np.mean([holds(patient) for patient in patients]))


def test_a_patient_is_drawn_from_seed_and_index_alone() -> None:
    assert draw_patient(CONFIG, index=7) == draw_patient(CONFIG, index=7)
    fewer = CONFIG.model_copy(update={"n_patients": 8, "layout": "heedb"})
    assert draw_patient(fewer, index=7) == draw_patient(CONFIG, index=7)
    other = CONFIG.model_copy(update={"seed": 3})
    assert draw_patient(other, index=7) != draw_patient(CONFIG, index=7)
    assert draw_patient(CONFIG, index=8).birth != draw_patient(CONFIG, index=7).birth


def test_ages_sexes_sites_settings_and_sessions_are_spread(patients: list[Patient]) -> None:
    ages = np.array([patient.sessions[0].age for patient in patients])
    assert 5 < ages.min() < 12
    assert 88 < ages.max() < 95
    assert 0.03 < (ages < 18).mean() < 0.2
    # Drawn again rather than clipped: no heap at the bounds.
    assert (ages < 6.1).mean() < 0.005
    assert (ages > 93.9).mean() < 0.005
    firsts = [patient.sessions[0].start.year for patient in patients]
    assert set(firsts) == set(range(2016, 2023))
    assert share(patients, lambda p: p.sex == "F") == pytest.approx(0.52, abs=0.05)
    total = sum(site.share for site in HOSPITAL.sites.values())
    for name, site in HOSPITAL.sites.items():
        found = share(patients, lambda p, name=name: p.site_name == name)
        assert found == pytest.approx(site.share / total, abs=0.05)
    settings = {session.setting for patient in patients for session in patient.sessions}
    assert settings == set(HOSPITAL.settings)
    assert share(patients, lambda p: len(p.sessions) > 1) == pytest.approx(
        HOSPITAL.noise.second_session, abs=0.05
    )
    for patient in patients:
        starts = [session.start for session in patient.sessions]
        assert starts == sorted(starts)
        for session in patient.sessions:
            years = (session.start.date() - patient.birth) / timedelta(days=365.2425)
            assert session.age == pytest.approx(years)


def test_one_site_sees_sicker_people(patients: list[Patient]) -> None:
    severe = {name for name, disease in HOSPITAL.diseases.items() if disease.severe}
    most = max(HOSPITAL.sites, key=lambda name: HOSPITAL.sites[name].severity)
    here = [p for p in patients if p.site_name == most]
    there = [p for p in patients if p.site_name != most]

    def mean(group: list[Patient]) -> float:
        return float(np.mean([len(severe & p.diseases.keys()) for p in group]))

    assert mean(here) > 1.3 * mean(there)


def test_indications_lead_to_drugs(patients: list[Patient]) -> None:
    name, medication, disease = max(
        (
            (name, medication, disease)
            for name, medication in HOSPITAL.medications.items()
            for disease in medication.indications
        ),
        key=lambda found: found[1].indications[found[2]],
    )
    never = date.max
    with_it = [p for p in patients if p.diseases.get(disease, never) <= p.sessions[0].start.date()]
    without = [p for p in patients if disease not in p.diseases]
    taken = share(with_it, lambda p: name in p.sessions[0].drugs)
    assert taken > 0.8 * medication.indications[disease]
    assert taken > 2 * share(without, lambda p: name in p.sessions[0].drugs)
    for patient in patients:
        for session in patient.sessions:
            for drug, (code, generic) in session.drugs.items():
                assert HOSPITAL.medications[drug].drugs[code] == generic


def test_a_disease_without_a_trait_edge_leaves_it_alone_and_one_with_shifts_it(
    patients: list[Patient],
) -> None:
    shifted = {"up": 0, "down": 0}
    for patient in patients:
        for session in patient.sessions:
            for effect in session.effects:
                if effect.cause in HOSPITAL.domains:
                    continue
                cause = HOSPITAL.diseases.get(effect.cause) or HOSPITAL.medications[effect.cause]
                assert not cause.null
                if effect.kind == "trait":
                    assert np.sign(effect.value) == np.sign(cause.traits[effect.target])
                    shifted["up" if effect.value > 0 else "down"] += 1
    assert min(shifted.values()) > 500


def test_levels_follow_the_sum_of_shifts(patients: list[Patient]) -> None:
    """Slope 1 SD of the trait for each SD of shift, in adults and where the bounds are far."""
    sessions = [s for p in patients for s in p.sessions[:1] if s.age > 16]
    for name in ("pdr_hz", "spindles_min", "beta_uv"):
        trait = TRAITS[name]
        levels = np.array([session.levels[name] for session in sessions])
        scores = ((np.log(levels) if trait.is_log else levels) - trait.mean) / trait.sd
        shifts = np.array(
            [
                sum(e.value for e in s.effects if e.kind == "trait" and e.target == name)
                for s in sessions
            ]
        )
        decades = np.array([(session.age - 40) / 10 for session in sessions])
        inner = (levels > trait.low * 1.01) & (levels < trait.high * 0.99)
        design = np.stack([shifts, decades, np.ones(len(shifts))], axis=1)[inner]
        slope, per_decade, _ = np.linalg.lstsq(design, scores[inner], rcond=None)[0]
        assert slope == pytest.approx(1, abs=0.2)
        assert per_decade == pytest.approx(trait.per_decade, abs=0.06)


def test_a_disease_that_comes_later_casts_half_a_shadow_or_none(patients: list[Patient]) -> None:
    weights = {"present": set(), "soon": set(), "soon, sudden": set(), "later": set()}
    for patient in patients:
        for session in patient.sessions:
            for name, onset in patient.diseases.items():
                disease = HOSPITAL.diseases[name]
                years = (onset - session.start.date()).days / 365.2425
                found = {e.target: e.value for e in session.effects if e.cause == name}
                for trait, value in disease.traits.items():
                    when = "present" if years <= 0 else "soon" if years < 2 else "later"
                    if when == "soon" and disease.sudden:
                        when = "soon, sudden"
                    weights[when].add(round(found.get(trait, 0.0) / value, 3))
    assert weights == {"present": {1.0}, "soon": {0.5}, "soon, sudden": {0.0}, "later": {0.0}}


def test_congenital_diseases_begin_at_birth_and_others_later(patients: list[Patient]) -> None:
    found = [
        (HOSPITAL.diseases[name].congenital, onset == patient.birth)
        for patient in patients
        for name, onset in patient.diseases.items()
    ]
    assert set(found) == {(True, True), (False, False)}


def test_nothing_is_given_for_a_disease_to_come() -> None:
    """With no drug taken for nothing, all that is taken has a begun disease as its reason."""
    only = HOSPITAL.model_copy(
        update={
            "medications": {
                name: drug.model_copy(update={"probability": 0.0})
                for name, drug in HOSPITAL.medications.items()
            }
        }
    )
    n_to_come = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("openclef.simulate.people.load_hospital", lambda _: only)
        for index in range(400):
            patient = draw_patient(CONFIG, index=index)
            for session in patient.sessions:
                today = session.start.date()
                begun = {name for name, onset in patient.diseases.items() if onset <= today}
                n_to_come += len(patient.diseases) - len(begun)
                for name in session.drugs:
                    assert begun & only.medications[name].indications.keys()
    assert n_to_come > 50


def test_intensive_care_stays_there(patients: list[Patient]) -> None:
    sessions = [session for patient in patients for session in patient.sessions]
    for name in ("propofol", "fentanyls"):
        shares = {
            setting: np.mean([name in s.drugs for s in sessions if s.setting == setting])
            for setting in HOSPITAL.settings
        }
        assert shares["icu"] > 0.2, name
        assert max(shares["routine"], shares["emu"]) < 0.04, name
    for name, pattern in PATTERNS.items():
        if pattern.settings:
            assert {s.setting for s in sessions if name in s.findings} <= set(pattern.settings)


def test_levels_stay_within_the_bounds_of_their_trait(patients: list[Patient]) -> None:
    for patient in patients:
        for session in patient.sessions:
            for name, level in session.levels.items():
                assert TRAITS[name].low <= level <= TRAITS[name].high, name


def test_effect_size_zero_leaves_no_trace() -> None:
    none = CONFIG.model_copy(update={"effect_size": 0.0})
    for index in range(50):
        patient, same = draw_patient(none, index=index), draw_patient(CONFIG, index=index)
        assert all(session.effects == () for session in patient.sessions)
        assert patient.diseases == same.diseases


def test_findings_exclude_one_another_and_abnormal_ones_lie_in_one_place(
    patients: list[Patient],
) -> None:
    instead = {"triphasic": "gpd", "bipd": "lpd", "status": "seizure"}
    seen = set()
    variant_sides = []
    for patient in patients:
        for session in patient.sessions:
            for name, other in instead.items():
                assert not {name, other} <= session.findings.keys()
            if "burst_suppression" in session.findings:
                assert "absent_pdr" in session.findings
                background = {"generalized_slowing", "focal_slowing", "diffuse_beta", "breach"}
                assert not background & session.findings.keys()
            if "low_voltage" in session.findings:
                large = {"diffuse_beta", "focal_slowing", "spike_wave", "seizure", "lpd", "gpd"}
                assert not large & session.findings.keys()
            seen |= session.findings.keys()
            for name, finding in session.findings.items():
                if PATTERNS[name].lateral and not PATTERNS[name].abnormal:
                    assert finding.region == "temporal"
                    variant_sides.append(finding.side == patient.side)
                elif PATTERNS[name].lateral:
                    assert (finding.side, finding.region) == (patient.side, patient.region)
                else:
                    assert (finding.side, finding.region) == (None, None)
    assert seen == set(PATTERNS)
    assert np.mean(variant_sides) == pytest.approx(0.5, abs=0.1)


def test_children_have_slower_rhythms_and_more_theta(patients: list[Patient]) -> None:
    sessions = [session for patient in patients for session in patient.sessions]

    def median(trait: str, young: bool) -> float:
        return float(
            np.median([s.levels[trait] for s in sessions if (s.age < 11 if young else s.age > 18)])
        )

    assert median("pdr_hz", True) < median("pdr_hz", False) - 0.7
    assert median("theta_uv", True) > 1.3 * median("theta_uv", False)


def test_traits_stay_with_the_patient(patients: list[Patient]) -> None:
    pairs = [p.sessions[:2] for p in patients if len(p.sessions) > 1 and p.sessions[0].age > 20]
    first, second = (np.array([pair[i].levels["spindle_hz"] for pair in pairs]) for i in (0, 1))
    assert 0.5 < np.corrcoef(first, second)[0, 1] < 0.95


def test_sessions_last_whole_seconds_in_the_range_at_the_rate_asked_for() -> None:
    config = SimulationConfig(n_patients=60, n_sites=4, shortest_s=60, longest_s=90, sfreq="native")
    sessions = [
        (patient.site, session)
        for index in range(60)
        for patient in [draw_patient(config, index=index)]
        for session in patient.sessions
    ]
    lengths = {session.duration_s for _, session in sessions}
    assert len(lengths) > 15
    assert 60 <= min(lengths) < max(lengths) <= 90
    assert all(session.sfreq_hz == site.sfreq_hz for site, session in sessions)
    assert draw_patient(CONFIG, index=0).sessions[0].sfreq_hz == 200
