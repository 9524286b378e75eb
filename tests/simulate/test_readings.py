"""Reports: what the text says against what happened, and against an independent reader of text."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pytest

from openclef.clinical.findings import FINDINGS, HEEDB_FLAGS, flag_name
from openclef.cohort.reports import electrographic_text
from openclef.simulate.config import SimulationConfig
from openclef.simulate.eeg.session import Truth, draw_truth
from openclef.simulate.parameters import load_hospital
from openclef.simulate.patients import Patient, Session
from openclef.simulate.people import draw_patient
from openclef.simulate.reports import Reading, read_session
from openclef.simulate.reports.authors import load_authors, load_table
from openclef.simulate.reports.dice import Dice
from openclef.simulate.reports.signs import look, read, true_flags
from openclef.simulate.reports.slips import in_style, with_slips

CONFIG = SimulationConfig(n_patients=240, seed=11, n_sites=4)
PATHOLOGICAL = (
    "spikes", "seizure", "focal_slowing", "generalized_slowing", "lpd", "gpd", "lrda", "grda",
    "burst_suppression",
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    patient: Patient
    session: Session
    truth: Truth
    reading: Reading


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    cases = []
    for index in range(CONFIG.n_patients):
        patient = draw_patient(CONFIG, index=index)
        earlier = None
        for session in patient.sessions:
            truth = draw_truth(CONFIG, patient, session)
            earlier = read_session(CONFIG, patient, session, truth, earlier=earlier)
            cases.append(Case(patient, session, truth, earlier))
    return cases


def test_every_flag_of_heedb_is_told_by_name(cases: list[Case]) -> None:
    names = {flag_name(flag) for flag in HEEDB_FLAGS}
    assert {finding.name for finding in FINDINGS} <= names
    assert all(set(case.reading.said) == names for case in cases)


def test_the_verdict_is_always_said_unless_uninterpretable(cases: list[Case]) -> None:
    for case in cases:
        said = case.reading.said
        if said["uninterpretable"]:
            assert {k for k, v in said.items() if v is not None} <= {"uninterpretable", "jme"}
        else:
            assert said["normal"] is not None
            assert said["normal"] is not said["abnormal"]
        if said["normal"]:
            assert not any(said[name] for name in PATHOLOGICAL)


def test_readers_miss_about_as_often_as_the_hospital_says(cases: list[Case]) -> None:
    noise = load_hospital(CONFIG.hospital).noise
    there = missed = absent = called = 0
    for case in cases:
        if case.reading.said["uninterpretable"]:
            continue
        truth = true_flags(case.session, case.truth)
        for name in PATHOLOGICAL:
            is_said = case.reading.said[name] is True
            there += truth[name]
            missed += truth[name] and not is_said
            absent += not truth[name]
            called += not truth[name] and is_said
    assert there > 250
    assert 0.5 * noise.missed < missed / there < 1.6 * noise.missed
    assert noise.overcalled < called / absent < 0.04


def test_faint_and_few_are_missed_more_often() -> None:
    config = SimulationConfig(n_patients=40, seed=3, n_sites=4)
    noise = load_hospital(config.hospital).noise
    missed: dict[bool, list[bool]] = {True: [], False: []}
    for index in range(config.n_patients):
        patient = draw_patient(config, index=index)
        session = patient.sessions[0]
        truth = draw_truth(config, patient, session)
        signs = look(session, truth).signs
        for draw in range(20):
            seen = read(session, truth, noise, Dice(np.random.default_rng((index, draw))))
            for name, sign in signs.items():
                missed[sign.faint].append(name not in seen.signs)
    assert np.mean(missed[True]) > 1.25 * np.mean(missed[False])


def test_a_finding_without_events_is_not_seen(cases: list[Case]) -> None:
    case = next(case for case in cases if "spikes" in case.session.findings)
    events = tuple(group for group in case.truth.events if group.kind != "spikes")
    assert "spikes" not in look(case.session, replace(case.truth, events=events)).signs


def test_benign_variants_are_called_epileptiform_now_and_then() -> None:
    noise = load_hospital(CONFIG.hospital).noise
    called: dict[bool, list[bool]] = {True: [], False: []}
    for index in range(80):
        patient = draw_patient(CONFIG, index=index)
        session = patient.sessions[0]
        truth = draw_truth(CONFIG, patient, session)
        if true_flags(session, truth)["spikes"]:
            continue
        is_tempting = not {"wicket", "bets"}.isdisjoint(look(session, truth).signs)
        for draw in range(30):
            seen = read(session, truth, noise, Dice(np.random.default_rng((index, draw))))
            called[is_tempting].append("sharp_waves" in seen.signs)
    assert np.mean(called[True]) > 3 * np.mean(called[False])


# ---- An independent reader of text: words near a negation are denied, others stated.

MENTIONS = {
    "spikes": r"\bspikes?\b|sharp waves?|epileptiform (discharges|abnormalities)|polyspike",
    "seizure": r"seizures?\b|status epilepticus",
    "focal_slowing": r"(focal|regional|lateralized) (theta |and |delta |irregular )*slowing"
    r"|(left|right|bilateral) \w+ (theta |and |delta |focal |irregular )*slowing"
    r"|slowing over (the|both)",
    "generalized_slowing": r"(generalized|diffuse) (polymorphic |theta |and |delta )*slowing",
    "burst_suppression": r"burst suppression",
    "spindles": r"spindles",
    "posterior_dominant_rhythm": r"posterior dominant rhythm|\bpdr\b",
}
# What is none of these though it has their words.
ELSEWHERE = (
    r"small sharp spikes|benign epileptiform transients|sharp transients|wicket spikes"
    r"|periodic (lateralized )?epileptiform discharges|risk of (focal |focal-onset )?seizures"
    r"|seizure risk|absence seizures|rule out seizures|nonconvulsive status epilepticus"
    r"|slowing of the posterior dominant rhythm|electrical status epilepticus"
)
NEGATION = re.compile(r"\b(no|not|without|w/o|neither|absent|absence|negative|free)\b|^\[ \]")
NO_NEGATION = re.compile(
    r"(cannot|could not) (be )?(entirely )?excluded?|not certain|be stated with"
)


def read_text(text: str) -> dict[str, bool | None]:
    text = text.lower().replace("generalised", "generalized").replace("lateralised", "lateralized")
    text = re.sub(ELSEWHERE, "", text)
    found: dict[str, bool | None] = dict.fromkeys(MENTIONS)
    for sentence in re.split(r"\.\s+|\s(?=\[[ x]\])", text):
        is_denied = NEGATION.search(NO_NEGATION.sub("", sentence)) is not None
        for name, pattern in MENTIONS.items():
            if re.search(pattern, sentence):
                found[name] = found[name] or not is_denied
    return found


@pytest.mark.parametrize("name", MENTIONS)
def test_what_is_said_is_in_the_text_and_what_is_denied_is_negated(
    cases: list[Case], name: str
) -> None:
    pairs = Counter(
        (case.reading.said[name], read_text(electrographic_text(case.reading.text) or "")[name])
        for case in cases
    )
    for said in (True, False, None):
        total = sum(n for (own, _), n in pairs.items() if own is said)
        if total > 10:
            assert pairs[said, said] / total > 0.93, (said, dict(pairs))


def test_negation_takes_many_forms(cases: list[Case]) -> None:
    denials = [
        re.sub(r"\d+", "", sentence)
        for case in cases
        for sentence in re.split(r"(?<=\.)\s+", case.reading.text)
        if NEGATION.search(NO_NEGATION.sub("", sentence.lower()))
    ]
    assert len(set(denials)) > 150
    assert any(re.search(r"\bno\b.*,.* or ", sentence.lower()) for sentence in denials)
    assert any("neither" in sentence.lower() for sentence in denials)


# ---- Form.


def test_nothing_unfilled_is_left(cases: list[Case]) -> None:
    for case in cases:
        assert not re.search(r"[{}]|\bNone\b(?!\.| known)|nan\b", case.reading.text)
        assert not re.search(r"[^\S\n]{2}|\(\)|\.\.| ,| \.", case.reading.text), case.reading.text


def test_ten_authors_write_differently(cases: list[Case]) -> None:
    by_author: dict[str, list[str]] = {}
    for case in cases:
        by_author.setdefault(case.reading.author, []).append(case.reading.text)
    assert set(by_author) == set(load_authors())
    assert len(by_author) >= 8
    assert len({case.reading.text for case in cases}) == len(cases)
    n_words = {
        name: np.median([len(t.split()) for t in texts]) for name, texts in by_author.items()
    }
    assert min(n_words.values()) < 40
    assert max(n_words.values()) > 180
    headings = {name: texts[0].split()[0] for name, texts in by_author.items()}
    assert len(set(headings.values())) >= 6


def test_the_vocabulary_is_that_of_people(cases: list[Case]) -> None:
    sentences = Counter(
        re.sub(r"\d+(\.\d+)?", "#", sentence)
        for case in cases
        for sentence in re.split(r"(?<=[a-z]\.)\s+", electrographic_text(case.reading.text) or "")
    )
    tokens = [w for case in cases for w in re.findall(r"[a-z]+", case.reading.text.lower())]
    assert len(sentences) / sentences.total() > 0.2
    assert sentences.most_common(1)[0][1] < 0.3 * len(cases)
    assert len(set(tokens)) > 1000


def test_the_alignment_finds_the_electrographic_sections(cases: list[Case]) -> None:
    for case in cases:
        text = electrographic_text(case.reading.text)
        assert text
        history = case.reading.parts["history"][0].text
        assert history not in text


def test_a_paragraph_of_the_report_before_is_copied_at_times(cases: list[Case]) -> None:
    pairs = [
        (before.reading, after.reading)
        for before, after in pairwise(cases)
        if before.patient.index == after.patient.index
    ]
    assert len(pairs) > 50
    copied = Counter(
        part
        for before, after in pairs
        for part, lines in after.parts.items()
        if lines and before.parts.get(part) == lines
    )
    assert 0.2 < copied["history"] / len(pairs) < 0.7
    assert copied["medications"] > 0


def test_uninterpretable_says_nothing_else() -> None:
    config = SimulationConfig(n_patients=700, seed=5, n_sites=4, shortest_s=10, longest_s=10)
    for index in range(config.n_patients):
        patient = draw_patient(config, index=index)
        session = patient.sessions[0]
        truth = draw_truth(config, patient, session)
        reading = read_session(config, patient, session, truth)
        if reading.said["uninterpretable"]:
            assert re.search("interpret|unsatisfactory", reading.text, re.IGNORECASE)
            assert reading.said["abnormal"] is None
            return
    pytest.fail("not one uninterpretable session in 700")


def test_a_report_depends_on_its_arguments_alone(cases: list[Case]) -> None:
    case = cases[0]
    again = read_session(CONFIG, case.patient, case.session, case.truth)
    assert again == read_session(CONFIG, case.patient, case.session, case.truth)
    assert again == case.reading
    other = CONFIG.model_copy(update={"seed": 12})
    assert read_session(other, case.patient, case.session, case.truth) != again


def test_nobody_is_named_or_dated(cases: list[Case]) -> None:
    for case in cases:
        patient, text = case.patient, case.reading.text
        assert patient.name not in text
        assert str(patient.subject_id) not in text
        assert not re.search(r"\b(19|20)\d\d\b", text)
        assert case.session.age < 90 or not re.search(r"\b9\d-?y", text)


def test_a_slip_never_touches_a_negation() -> None:
    author = next(iter(load_authors().values())).model_copy(update={"typos": 40.0})
    text = "There was focal slowing without spikes, otherwise normal, no seizures and not absent."
    for seed in range(50):
        words = with_slips(text, author, Dice(np.random.default_rng(seed))).split()
        assert {"without", "no", "not", "absent."} <= set(words)


def test_authors_keep_their_spelling_and_terms() -> None:
    authors = load_authors()
    text = "Generalized periodic discharges with the posterior dominant rhythm and an artifact."
    british = in_style(text, authors["british"])
    assert british == text.replace("Generalized", "Generalised").replace("artifact", "artefact")
    assert in_style(text, authors["telegraph"]).startswith("GPDs w/ the PDR")
    assert "GPEDs" in in_style(text, authors["capitals"])


def test_every_disease_is_told_in_words() -> None:
    table = load_table("cases")
    assert set(table["diseases"]) <= set(load_hospital("v1").diseases)
    for options in table["diseases"].values():
        assert options
        assert not any("_" in option.format(side="left", region="frontal") for option in options)


@pytest.mark.parametrize("seconds", [10, 64])
def test_short_sessions_are_reported_too(seconds: int) -> None:
    config = SimulationConfig(n_patients=30, seed=2, shortest_s=seconds, longest_s=seconds)
    for index in range(config.n_patients):
        patient = draw_patient(config, index=index)
        for session in patient.sessions:
            truth = draw_truth(config, patient, session)
            assert read_session(config, patient, session, truth).text.strip()
