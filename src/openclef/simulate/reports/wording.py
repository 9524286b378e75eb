"""Words: sentences filled in, signs named, doubts expressed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from openclef.simulate.findings import PATTERNS
from openclef.simulate.reports.authors import Author, load_table
from openclef.simulate.reports.dice import Dice
from openclef.simulate.reports.signs import UNMISTAKABLE, Seen, Sign

_BEFORE_VOWEL = re.compile(r"\b[Aa] (?=8|11\b|18\b)")
_MODERN = {"T3": "T7", "T4": "T8", "T5": "P7", "T6": "P8"}
# ACNS terms: the least share of the record; what readers say who do not use them.
_SHARES = ((0.9, "continuous"), (0.5, "abundant"), (0.1, "frequent"), (0.01, "occasional"))
_RATES = ((6.0, "abundant"), (1.0, "frequent"), (0.15, "occasional"))
_PLAIN = {
    "continuous": "persistent", "abundant": "very frequent", "frequent": "frequent",
    "occasional": "intermittent", "rare": "rare",
}  # fmt: skip
_BENIGN_DOUBTED, _FAINT_DOUBTED, _FALSE_DOUBTED = 0.03, 0.3, 0.3
_COUNTED = ("spikes", "sharp_waves", "spike_wave", "polyspikes", "wicket", "bets")


@dataclass(frozen=True)
class Line:
    """A sentence and what it says: flags stated (True) or denied (False)."""

    text: str
    said: Mapping[str, bool]


def sentence(template: str, **words: object) -> str:
    """Fill a template; each `{Word}` is `{word}` with a capital, as is the first letter."""
    capitals = {k.capitalize(): capital(v) for k, v in words.items() if isinstance(v, str)}
    text = " ".join(template.format(**words, **capitals).split())
    return capital(_BEFORE_VOWEL.sub("an ", text))


def capital(text: str) -> str:
    """Begin with a capital."""
    return text[:1].upper() + text[1:]


def listed(items: Sequence[str], joint: str = "and") -> str:
    """Return `a, b and c`."""
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} {joint} {items[-1]}"


def electrode(name: str, *, modern: bool) -> str:
    """Spell an electrode as a site does: T3, or T7 where names are modern."""
    return _MODERN.get(name, name) if modern else name


def words_of(
    sign: Sign, author: Author, dice: Dice, *, is_doubtful: bool = False, modern: bool = False
) -> dict[str, str]:
    """Return what fills the slots of a pattern's phrases; what is doubtful is not counted."""
    share, rate = sign.share, sign.per_min
    scale, value = (_RATES, rate) if sign.pattern in _COUNTED else (_SHARES, share)
    prevalence = next((word for least, word in scale if value >= least), "rare")
    if sign.pattern in _COUNTED and sign.n <= 2:
        prevalence = "rare"
    names = listed([electrode(name, modern=modern) for name in sign.channels])
    region = sign.region or "temporal"
    both = len(sign.sides) > 1
    where = ("bilateral" if both else sign.sides[0]) + f" {region}" if sign.sides else "generalized"
    over = f"over both {region} regions" if both else f"over the {where} region"
    hz = sign.hz or 2.0
    n = max(1, sign.n)
    counts = ("one", "two", "three", "four", "five")
    return {
        "prevalence": prevalence if author.layout == "topics" else _PLAIN[prevalence],
        "voltage": next(
            word
            for most, word in ((50, "low voltage"), (150, "medium voltage"), (9e9, "high voltage"))
            if sign.uv < most
        ),
        "severity": "mild" if share < 0.3 else "moderate" if share < 0.7 else "moderate to severe",
        "hz": f"{round(2 * hz) / 2:g} Hz",
        "band": "delta" if 0 < sign.hz < 3.5 else "theta" if sign.hz >= 4 else "theta and delta",
        "where": where,
        "over": over if sign.sides else "diffusely",
        "from": f"from the {where} region" if sign.sides and not both else "from either side",
        "max": dice.pick((f" (maximal at {names})", f" with a maximum at {names}", ""))
        if names
        else "",
        "suppressed": str(int(min(95, max(30, 10 * round(10 * (1 - share)))))),
        "count": "" if is_doubtful else counts[n - 1] if n <= len(counts) else "multiple",
        "seizures": "seizure" if n == 1 else "seizures",
        "onset": f" with {where} onset" if sign.sides else "",
    }


def is_plural(sign: Sign) -> bool:
    """Whether a sign is spoken of in the plural."""
    if sign.pattern == "seizure":
        return sign.n != 1
    return bool(load_table("phrases")["patterns"][sign.pattern]["plural"])


def is_doubted(sign: Sign, author: Author, dice: Dice) -> bool:
    """Whether the reader hedges: what is not there is doubted by most, what is faint by some."""
    if not PATTERNS[sign.pattern].abnormal:
        return dice.chance(_BENIGN_DOUBTED)
    if sign.pattern in UNMISTAKABLE and sign.is_real:
        return dice.chance(0.3 * author.hedging)
    return dice.chance(
        author.hedging + _FAINT_DOUBTED * sign.faint + _FALSE_DOUBTED * (not sign.is_real)
    )


def describe_sign(sign: Sign, seen: Seen, author: Author, dice: Dice, *, modern: bool) -> Line:
    """One sentence of the description about a sign."""
    table = load_table("phrases")
    is_doubtful = is_doubted(sign, author, dice)
    words = words_of(sign, author, dice, is_doubtful=is_doubtful, modern=modern)
    np = sentence(dice.pick(table["patterns"][sign.pattern]["described"]), **words)
    if is_doubtful:
        frame = dice.pick(table["frames"][dice.pick(author.hedges)])
    else:
        frame = dice.pick(table["frames"]["short" if author.short else "full"])
    context = sign.context
    if context == "sleep" and "n2" not in seen.states:
        context = "drowsiness"
    when = dice.pick(table["when"][context]) if context and dice.chance(0.7) else ""
    text = sentence(frame, np=uncapital(np), were="were" if is_plural(sign) else "was", when=when)
    return Line(text, dict.fromkeys(sign.flags, True))


def conclude_sign(sign: Sign, author: Author, dice: Dice) -> str:
    """Name a sign for the impression: a noun phrase without capital, hedged or not."""
    table = load_table("phrases")
    is_doubtful = is_doubted(sign, author, dice)
    words = words_of(sign, author, dice, is_doubtful=is_doubtful)
    np = uncapital(sentence(dice.pick(table["patterns"][sign.pattern]["concluded"]), **words))
    if is_doubtful:
        np = dice.pick(table["concluded"][dice.pick(author.hedges)]).format(np=np)
    return np


def uncapital(text: str) -> str:
    """Undo a sentence's capital, but not that of an abbreviation."""
    return text if text[1:2].isupper() else text[:1].lower() + text[1:]
