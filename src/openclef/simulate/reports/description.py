"""The description of a record, topic by topic: background, sleep, what was seen, what was not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from openclef.clinical.findings import flag_name
from openclef.simulate.eeg.course import N1, N2, N3, PHOTIC_UV, REM, hyperventilation_uv
from openclef.simulate.eeg.session import Truth
from openclef.simulate.findings import PATTERNS
from openclef.simulate.patients import Patient, Session
from openclef.simulate.reports.authors import Author, load_table
from openclef.simulate.reports.dice import Dice
from openclef.simulate.reports.signs import Seen, Sign
from openclef.simulate.reports.wording import Line, describe_sign, electrode, listed, sentence

TOPICS: Mapping[str, tuple[str, ...]] = {
    "background": ("burst_suppression", "low_voltage", "diffuse_beta", "breach"),
    "sleep": (),
    "slowing": ("generalized_slowing", "focal_slowing"),
    "epileptiform": ("spikes", "sharp_waves", "spike_wave", "polyspikes", "wicket", "bets"),
    "periodic": ("lpd", "gpd", "bipd", "triphasic", "lrda", "grda"),
    "seizures": ("seizure", "status"),
    "activation": ("photoparoxysmal",),
    "ekg": (),
    "artefact": (),
}
_BENIGN_STATED = {"low_voltage": 0.85, "diffuse_beta": 0.85, "wicket": 0.6, "bets": 0.6}
_DISORGANISED = frozenset(
    {"generalized_slowing", "gpd", "triphasic", "bipd", "grda", "lpd", "status"}
)
_FREQUENT_AROUSALS_H = 60
# RMS of theta that stands out.
_BUILDUP_UV = 6.0
_IRREGULAR = 0.12
_TOLD_SEIZURES = 3

Lines = dict[str, list[Line]]


def describe(
    seen: Seen, patient: Patient, session: Session, truth: Truth, author: Author, dice: Dice
) -> Lines:
    """Return the lines of each topic of `TOPICS`, empty where nothing is said."""
    table = load_table("phrases")
    modern = patient.site.modern_names
    lines: Lines = {topic: [] for topic in TOPICS}
    lines["background"] += _background(seen, session, author, table, dice)
    lines["sleep"] += _sleep(seen, session, truth, author, table, dice)
    is_drowsy = not seen.states.isdisjoint(("n1", "n2"))
    for topic, patterns in TOPICS.items():
        for name in patterns:
            sign = seen.signs.get(name)
            if name == "bets" and not is_drowsy:
                continue
            if sign is not None and dice.chance(_BENIGN_STATED.get(name, 1.0)):
                lines[topic].append(describe_sign(sign, seen, author, dice, modern=modern))
                if sign.spells and not author.short:
                    lines[topic] += _spells(sign, session, table, dice)
    for topic, line in _denials(seen, session, author, table, dice):
        lines[topic].append(line)
    lines["activation"] += _activation(seen, session, truth, author, table, dice)
    lines["ekg"] += _heart(session, author, table, dice)
    lines["artefact"] += _artefacts(session, truth, author, table, dice, modern=modern)
    return lines


def is_pdr_slow(session: Session) -> bool:
    """Below 8 Hz from adolescence, less in children."""
    return session.levels["pdr_hz"] < 8.0 - 0.2 * max(0.0, 16 - session.age)


def pdr_hz(session: Session) -> str:
    """Frequency of the posterior rhythm as it is read off a page, to half a hertz."""
    return f"{round(2 * session.levels['pdr_hz']) / 2:g}"


def _background(
    seen: Seen, session: Session, author: Author, table: dict[str, Any], dice: Dice
) -> list[Line]:
    background = table["background"]
    lines: list[Line] = []
    if "burst_suppression" in seen.signs:
        return lines
    is_poor = seen.pdr is False or is_pdr_slow(session) or not _DISORGANISED.isdisjoint(seen.signs)
    is_told = dice.chance(author.verbosity * (0.6 if is_poor else 1.0))
    if is_told and "awake" in seen.states:
        lines.append(Line(dice.pick(background["disorganised" if is_poor else "organised"]), {}))
    if seen.pdr is not None and dice.chance(0.75 + 0.25 * author.verbosity):
        kind = "pdr_absent" if not seen.pdr else "pdr_slow" if is_pdr_slow(session) else "pdr"
        reactivity = session.levels["reactivity"]
        how = next(
            name
            for least, name in ((0.5, "reactive"), (0.25, "partly_reactive"), (-1, "unreactive"))
            if reactivity > least
        )
        uv = 10 * round(session.levels["alpha_uv"] * 2.8 / 10)
        style = "_short" if author.short else ""
        text = sentence(
            dice.pick(background[kind + style]),
            hz=pdr_hz(session),
            uv=f"{max(10, uv - 10)}-{max(20, uv + 10)}",
            reactivity=dice.pick(background[how + style]) if dice.chance(0.6) else "",
        )
        lines.append(Line(text, {"posterior_dominant_rhythm": seen.pdr}))
    if session.levels["mu_uv"] > 8 and seen.pdr and dice.chance(0.4 * author.verbosity):
        lines.append(Line(dice.pick(background["mu"]), {}))
    return lines


def _sleep(
    seen: Seen, session: Session, truth: Truth, author: Author, table: dict[str, Any], dice: Dice
) -> list[Line]:
    sleep = table["sleep"]
    states, talk = seen.states, author.verbosity
    lines: list[Line] = []

    def say(key: str, said: Mapping[str, bool], probability: float) -> None:
        if dice.chance(probability):
            hz = f"{session.levels['spindle_hz']:.0f}"
            lines.append(Line(dice.pick(sleep[key]).format(spindle_hz=hz), said))

    if "coma" in states:
        say("coma", {}, 0.4 + 0.6 * talk)
        say("no_waking", {"awake": False}, 0.05)
        return lines
    awake, drowsy, asleep = "awake" in states, "n1" in states, "n2" in states
    if asleep:
        key = "all" if awake and drowsy else "awake_asleep" if awake else "asleep"
    else:
        key = "awake_drowsy" if awake and drowsy else "awake" if awake or not drowsy else "drowsy"
    said = {
        name: True
        for name, is_told in (
            ("awake", key not in ("asleep", "drowsy")),
            ("n1", key in ("all", "awake_drowsy", "drowsy")),
            ("sleep", asleep),
        )
        if is_told
    }
    say(key, said, 0.7 + 0.3 * talk if asleep else 0.4 + 0.5 * talk)
    if drowsy and lines:
        say("drowsiness", {"n1": True}, 0.4 * talk)
    if not asleep:
        # Vertex waves are light sleep, which is not what is denied.
        key = "no_deep" if "vertex_wave" in seen.figures else "no_sleep"
        say(key, {"sleep": False}, 0.35 + 0.5 * talk)
        if awake and not drowsy:
            say("no_drowsiness", {"n1": False}, 0.1 * talk)
    for name in ("vertex_wave", "spindles", "k_complexes", "posts"):
        if name in seen.figures and (drowsy or asleep):
            is_deep = asleep and name in ("spindles", "k_complexes")
            said = {name: True, "sleep": True} if is_deep else {name: True}
            say(name, said, 0.9 if name == "spindles" else 0.3 + 0.5 * talk)
    if asleep and "spindles" not in seen.figures:
        say("no_spindles", {"spindles": False}, 0.25 + 0.3 * talk)
    if "n3" in states:
        say("n3", {"sleep": True}, 0.6 * talk)
    if "rem" in states:
        say("rem", {"sleep": True}, 0.6 * talk)
    if asleep and _arousals_h(truth) > _FREQUENT_AROUSALS_H:
        say("arousals", {}, 0.6 * talk)
    return lines


def _arousals_h(truth: Truth) -> float:
    """Arousals an hour of sleep, as counted."""
    asleep_s = int(np.isin(truth.course.stage, (N1, N2, N3, REM)).sum())
    return 3600 * len(truth.course.arousals_s) / max(1, asleep_s)


def _spells(sign: Sign, session: Session, table: dict[str, Any], dice: Dice) -> list[Line]:
    """Tell the first seizures one by one: when, how long, from where, where to."""
    lines = []
    for onset, duration in sign.spells[:_TOLD_SEIZURES]:
        minutes, seconds = divmod(int(onset), 60)
        lines.append(
            Line(
                sentence(
                    dice.pick(table["other"]["seizure"]),
                    at=f"at {minutes:02d}:{seconds:02d} of the recording",
                    seconds=str(max(1, round(duration))),
                    over=f" over the {sign.sides[0]} {sign.region} region"
                    if sign.sides
                    else " in a generalized fashion",
                    hz=f"{max(2, round(sign.hz)) if sign.hz else 5:g} Hz",
                    spread=" and spread to the other side" if len(sign.sides) > 1 else "",
                ),
                dict.fromkeys(sign.flags, True),
            )
        )
    return lines


def _denials(
    seen: Seen, session: Session, author: Author, table: dict[str, Any], dice: Dice
) -> list[tuple[str, Line]]:
    """Say that some of what is not there is not there, all in one sentence or each in its own."""
    called = {flag for sign in seen.signs.values() for flag in sign.flags}
    talk = 0.6 + 0.4 * author.verbosity
    absent = []
    for name, entry in table["denied"].items():
        stated = entry["icu"] if session.setting == "icu" and "icu" in entry else entry["stated"]
        if called.isdisjoint(entry["flags"]) and dice.chance(stated * talk):
            absent.append((name, entry))
    together = [pair for pair in absent if pair[0] not in ("low_voltage", "breach")]
    lines: list[tuple[str, Line]] = []
    if author.denial == "list" and len(together) > 1:
        nouns = [n for _, entry in together for n in dice.pick(entry["nouns"]).split(", ")]
        # "or" within a phrase goes last, or the list could not be read.
        nouns.sort(key=lambda noun: " or " in noun)
        first, last = (_were(noun) for noun in (nouns[0], nouns[-1]))
        frame = dice.pick(table["denial"]["short" if author.short else "full"])
        text = sentence(frame, list=listed(nouns, "or"), were=last, first_were=first)
        flags = {flag: False for _, entry in together for flag in entry["flags"]}
        lines.append(("epileptiform", Line(text, flags)))
        absent = [pair for pair in absent if pair not in together]
    for _, entry in absent:
        said = dict.fromkeys(entry["flags"], False)
        lines.append((entry["topic"], Line(dice.pick(entry["own"]), said)))
    return lines


def _were(noun: str) -> str:
    return "were" if noun.endswith("s") and not noun.endswith("epilepticus") else "was"


def _activation(
    seen: Seen, session: Session, truth: Truth, author: Author, table: dict[str, Any], dice: Dice
) -> list[Line]:
    activation = table["activation"]
    if session.setting == "icu" or not dice.chance(0.3 + 0.7 * author.verbosity):
        return []
    keys: list[tuple[str, Mapping[str, bool]]] = []
    if truth.of("hyperventilation"):
        is_slow = hyperventilation_uv(session) > _BUILDUP_UV
        keys.append(("hv_buildup" if is_slow else "hv_nothing", {}))
    elif dice.chance(0.7):
        keys.append(("hv_none", {}))
    if not truth.of("photic"):
        if dice.chance(0.7):
            keys.append(("photic_none", {}))
    elif "photoparoxysmal" not in seen.signs:
        keys.append(("driving" if _is_driven(session) else "no_driving", {}))
        if dice.chance(0.4):
            keys.append(("no_ppr", {flag_name("ppr"): False}))
    return [Line(dice.pick(activation[key]), said) for key, said in keys]


def _is_driven(session: Session) -> bool:
    """Whether the response to flashes stands out from alpha and background."""
    levels = session.levels
    alpha_uv = levels["alpha_uv"] * ("absent_pdr" not in session.findings)
    return PHOTIC_UV * levels["photic_drive"] > math.hypot(levels["background_uv"], alpha_uv)


def _heart(session: Session, author: Author, table: dict[str, Any], dice: Dice) -> list[Line]:
    if not dice.chance(0.6 * author.verbosity):
        return []
    is_irregular = session.levels["heart_irregularity"] > _IRREGULAR
    template = dice.pick(table["other"]["ekg_irregular" if is_irregular else "ekg_regular"])
    return [Line(template.format(bpm=round(session.levels["heart_bpm"])), {})]


def _artefacts(
    session: Session,
    truth: Truth,
    author: Author,
    table: dict[str, Any],
    dice: Dice,
    *,
    modern: bool,
) -> list[Line]:
    other = table["other"]
    found = [
        kind
        for kind, least in (("muscle", 25), ("movement", 5), ("sweat", 1), ("blink", 60))
        if sum(map(len, truth.of(kind))) >= least
    ]
    lines = [
        Line(dice.pick(other[k]), {}) for k in found[:2] if dice.chance(0.5 * author.verbosity)
    ]
    if session.bad_channels and dice.chance(0.4 + 0.4 * author.verbosity):
        names = listed([electrode(name, modern=modern) for name in session.bad_channels])
        lines.append(Line(dice.pick(other["electrode"]).format(electrode=names), {}))
    return lines


def is_abnormal(seen: Seen, session: Session) -> bool:
    """Return the verdict that follows from what was seen."""
    is_slow = bool(seen.pdr) and is_pdr_slow(session)
    return seen.pdr is False or is_slow or any(PATTERNS[name].abnormal for name in seen.signs)
