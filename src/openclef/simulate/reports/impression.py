"""The impression: the verdict, what it rests on, how it compares, and what it may mean."""

from __future__ import annotations

from collections.abc import Mapping

from openclef.simulate.findings import PATTERNS
from openclef.simulate.patients import Session
from openclef.simulate.reports.authors import Author, load_table
from openclef.simulate.reports.description import is_abnormal, is_pdr_slow, pdr_hz
from openclef.simulate.reports.dice import Dice
from openclef.simulate.reports.signs import Seen, Sign
from openclef.simulate.reports.wording import (
    Line,
    capital,
    conclude_sign,
    listed,
    sentence,
    words_of,
)

_BENIGN_CONCLUDED = 0.25
_COMPARED = ("abnormal", "spikes", "seizure", "focal_slowing", "generalized_slowing")
# The worst first.
_ORDER = (
    "status", "seizure", "burst_suppression", "lpd", "bipd", "gpd", "triphasic", "spike_wave",
    "polyspikes", "spikes", "sharp_waves", "photoparoxysmal", "lrda", "grda", "focal_slowing",
    "generalized_slowing", "breach", "diffuse_beta", "low_voltage", "wicket", "bets",
)  # fmt: skip


def conclude(
    seen: Seen,
    session: Session,
    author: Author,
    dice: Dice,
    *,
    syndromes: Mapping[str, str],
    before: Mapping[str, bool | None] | None,
) -> list[Line]:
    """Return the lines of the impression, the verdict first.

    Parameters
    ----------
    seen, session, author, dice : Seen, Session, Author, Dice
        What is concluded from, by whom.
    syndromes : mapping
        Flag -> name of what the patient is known to have.
    before : mapping or None
        What the report of the session before said.
    """
    table = load_table("phrases")["impression"]
    abnormal = is_abnormal(seen, session)
    verdict = {"normal": not abnormal, "abnormal": abnormal}
    items = _items(seen, session, author, dice)
    if not abnormal:
        lines = [_verdict("normal", seen, author, dice, verdict)]
        lines += [Line(f"{capital(text)}.", said) for text, said in items]
    elif author.numbered or author.short or len(items) > 4:
        lines = [_verdict("abnormal", seen, author, dice, verdict)]
        is_list = author.numbered and len(items) > 1
        numbers = [f"{n}. " if is_list else "" for n in range(1, len(items) + 1)]
        lines += [
            Line(f"{number}{capital(text)}.", said)
            for number, (text, said) in zip(numbers, items, strict=True)
        ]
    else:
        text = sentence(dice.pick(table["because"]), list=listed([text for text, _ in items]))
        said = {flag: True for _, flags in items for flag in flags}
        said |= {flag: value for _, flags in items for flag, value in flags.items()}
        lines = [Line(text, {**said, **verdict})]
    for flag, name in syndromes.items():
        if abnormal and dice.chance(0.6):
            lines.append(Line(sentence(dice.pick(table["syndrome"]), syndrome=name), {flag: True}))
    lines += _comparison(lines, before, session, author, dice)
    return lines


def correlate(seen: Seen, session: Session, author: Author, dice: Dice) -> list[Line]:
    """Return what the findings may mean for the patient."""
    phrases = load_table("phrases")
    table = phrases["impression"]
    if not is_abnormal(seen, session):
        return [Line(dice.pick(table["normal_means"]), {})]
    lines = []
    for sign in _sorted(seen)[:2]:
        means = phrases["patterns"][sign.pattern]["means"]
        if means:
            words = words_of(sign, author, dice)
            # What is told again is stated again.
            lines.append(Line(sentence(dice.pick(means), **words), dict.fromkeys(sign.flags, True)))
    if not lines or dice.chance(0.4):
        lines.append(Line(dice.pick(table["abnormal_means"]), {}))
    return lines


def _sorted(seen: Seen) -> list[Sign]:
    return [seen.signs[name] for name in _ORDER if name in seen.signs]


def _items(
    seen: Seen, session: Session, author: Author, dice: Dice
) -> list[tuple[str, dict[str, bool]]]:
    """What the verdict rests on: noun phrases and the flags that each states."""
    table = load_table("phrases")["impression"]
    items = [
        (conclude_sign(sign, author, dice), dict.fromkeys(sign.flags, True))
        for sign in _sorted(seen)
        if PATTERNS[sign.pattern].abnormal or dice.chance(_BENIGN_CONCLUDED)
    ]
    if seen.pdr is False and "burst_suppression" not in seen.signs:
        items.append((dice.pick(table["pdr_absent"]), {"posterior_dominant_rhythm": False}))
    elif seen.pdr and is_pdr_slow(session):
        text = dice.pick(table["pdr_slow"]).format(hz=pdr_hz(session))
        items.append((text, {"posterior_dominant_rhythm": True}))
    return items


def _verdict(
    kind: str, seen: Seen, author: Author, dice: Dice, verdict: Mapping[str, bool]
) -> Line:
    phrases = load_table("phrases")
    said = dict(verdict)
    states = ""
    if "awake" in seen.states and not author.short and dice.chance(0.5):
        asleep, drowsy = "n2" in seen.states, "n1" in seen.states
        key = "awake_asleep" if asleep else "awake_drowsy" if drowsy else "awake"
        states = " " + dice.pick(phrases["states"][key])
        said["awake"] = True
        if asleep:
            said["sleep"] = True
        elif drowsy:
            said["n1"] = True
    template = dice.pick(phrases["impression"][kind + ("_short" if author.short else "")])
    return Line(template.format(states=states), said if "{states}" in template else verdict)


def _comparison(
    lines: list[Line],
    before: Mapping[str, bool | None] | None,
    session: Session,
    author: Author,
    dice: Dice,
) -> list[Line]:
    table = load_table("phrases")["impression"]
    if before is None:
        if session.index == 0 and dice.chance(0.3 * author.verbosity):
            return [Line(dice.pick(table["no_prior"]), {})]
        return []
    if not dice.chance(0.2 + 0.5 * author.verbosity):
        return []
    stated = {flag for line in lines for flag, value in line.said.items() if value}
    is_same = all((before[flag] is True) == (flag in stated) for flag in _COMPARED)
    return [Line(dice.pick(table["unchanged" if is_same else "changed"]), {})]
