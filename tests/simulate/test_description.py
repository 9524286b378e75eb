"""What a description says of arousals, hyperventilation and flashes, and from which level on."""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from healthy import session_of, steady

from openclef.simulate.eeg.course import N1, N2, WAKE, Course, course_events
from openclef.simulate.eeg.session import Truth
from openclef.simulate.patients import Patient, Session
from openclef.simulate.reports.authors import load_authors
from openclef.simulate.reports.description import describe
from openclef.simulate.reports.dice import Dice
from openclef.simulate.reports.signs import Sign, look

PATIENT = cast(Patient, SimpleNamespace(site=SimpleNamespace(modern_names=False)))
AUTHOR = load_authors()["resident"]
AROUSALS = r"frequent arousals"
NOT_DONE = r"not performed|omitted|deferred"
BUILDUP = r"buildup"
NO_CHANGE = r"without significant change|no change"
DRIVING = r"(symmetric|bilateral) driving"
NO_DRIVING = r"(little|no) driving"


class Talkative(Dice):
    """Says all that may be said, in words drawn."""

    def chance(self, probability: float) -> bool:
        return probability > 0


def told(topic: str, session: Session, course: Course, *signs: str) -> list[list[str]]:
    """Sentences on a topic, each time in other words."""
    truth = Truth(course, tuple(course_events(course, session)))
    seen = replace(look(session, truth), signs={name: Sign(name, is_real=True) for name in signs})
    described = [
        describe(seen, PATIENT, session, truth, AUTHOR, Talkative(np.random.default_rng(seed)))
        for seed in range(12)
    ]
    return [[line.text for line in lines[topic]] for lines in described]


def says(pattern: str, texts: list[list[str]], *, about: str = "") -> bool:
    """Whether a sentence on something has the words; all wordings must agree."""
    found = {
        any(about in text and re.search(pattern, text, re.IGNORECASE) for text in sentences)
        for sentences in texts
    }
    assert len(found) == 1, texts
    return found.pop()


# Arousals.


@pytest.mark.parametrize(
    ("n_arousals", "asleep_s", "is_told"),
    [(60, 3600, False), (61, 3600, True), (30, 1800, False), (31, 1800, True)],
)
def test_arousals_are_told_above_sixty_an_hour_of_sleep(
    n_arousals: int, asleep_s: int, is_told: bool
) -> None:
    session = session_of(setting="ltm", duration_s=3600)
    course = replace(
        steady(session, N2), arousals_s=np.linspace(0, asleep_s - 1, n_arousals).round()
    )
    course.stage[asleep_s:] = WAKE
    assert says(AROUSALS, told("sleep", session, course)) is is_told


def test_drowsiness_counts_as_sleep_between_arousals_but_not_as_sleep_to_tell_them_of() -> None:
    session = session_of(setting="ltm", duration_s=3600)
    course = replace(steady(session, N1), arousals_s=np.arange(0.0, 3600, 40))
    assert not says(AROUSALS, told("sleep", session, course))
    course.stage[1800:] = N2
    assert says(AROUSALS, told("sleep", session, course))
    # 70 an hour of stage 2, but 35 an hour of sleep.
    fewer = replace(course, arousals_s=course.arousals_s[45:80])
    assert not says(AROUSALS, told("sleep", session, fewer))


# Hyperventilation.


def overbreathed(session: Session, *, asked: bool = True) -> Course:
    course = steady(session, WAKE)
    if asked:
        course.hyperventilation[100:280] = np.linspace(0.01, 0.95, 180)
    return course


def test_hyperventilation_is_said_to_be_left_out_if_and_only_if_it_was() -> None:
    session = session_of()
    for asked in (True, False):
        texts = told("activation", session, overbreathed(session, asked=asked))
        assert says(NOT_DONE, texts, about="Hyperventilation") is not asked
        assert says(f"{BUILDUP}|{NO_CHANGE}", texts, about="Hyperventilation") is asked


@pytest.mark.parametrize(
    ("age", "hv_buildup", "is_told"),
    [
        # 16 uV times the level, less by a factor e each 30 years from 20 on, against 6 uV.
        (20, 0.38, True), (20, 0.37, False), (12, 0.38, True), (12, 0.37, False),
        (49, 1.0, True), (50, 1.0, False), (80, 2.7, False), (80, 2.8, True),
    ],
)  # fmt: skip
def test_overbreathing_is_said_to_slow_above_six_microvolts_and_else_to_change_nothing(
    age: float, hv_buildup: float, is_told: bool
) -> None:
    session = session_of(age=age, hv_buildup=hv_buildup)
    texts = told("activation", session, overbreathed(session))
    assert says(BUILDUP, texts, about="Hyperventilation") is is_told
    assert says(NO_CHANGE, texts, about="Hyperventilation") is not is_told


def test_nothing_is_said_of_provocations_in_intensive_care() -> None:
    session = session_of(setting="icu")
    assert not any(told("activation", session, overbreathed(session)))
    assert not any(told("activation", session, overbreathed(session, asked=False)))


# Flashes.


@pytest.mark.parametrize(
    ("photic_drive", "alpha_uv", "findings", "is_driven"),
    [
        # 7 uV times the level, against 6 uV of background and the RMS of alpha: 3.6 uV are left.
        (1.0, 3.5, (), True), (1.0, 3.7, (), False), (0.9, 3.5, (), False), (1.1, 3.7, (), True),
        # An alpha that is absent hides nothing.
        (1.0, 30.0, ("absent_pdr",), True), (0.85, 0.0, ("absent_pdr",), False),
    ],
)  # fmt: skip
def test_driving_is_told_where_the_response_stands_out_of_background_and_alpha(
    photic_drive: float, alpha_uv: float, findings: tuple[str, ...], is_driven: bool
) -> None:
    session = session_of(*findings, photic_drive=photic_drive, alpha_uv=alpha_uv, background_uv=6.0)
    course = steady(session, WAKE)
    course.photic_hz[100:110] = 12
    texts = told("activation", session, course)
    assert says(DRIVING, texts) is is_driven
    assert says(NO_DRIVING, texts) is not is_driven
    assert not says(NOT_DONE, texts, about="Photic")


def test_without_flashes_nothing_is_said_of_driving() -> None:
    session = session_of(photic_drive=5.0)
    texts = told("activation", session, steady(session, WAKE))
    assert says(NOT_DONE, texts, about="Photic")
    assert not says("driving|photoparoxysmal", texts)


def test_a_photoparoxysmal_response_is_told_in_place_of_driving() -> None:
    session = session_of(photic_drive=5.0)
    course = steady(session, WAKE)
    course.photic_hz[100:110] = 12
    texts = told("activation", session, course, "photoparoxysmal")
    assert says("photoparoxysmal", texts)
    assert not says("driving", texts)
    assert not says("no photoparoxysmal", texts)
    assert says("no photoparoxysmal", told("activation", session, course))
