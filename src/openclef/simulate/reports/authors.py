"""Readers: ten styles of writing, from three lines to forty; tables beside this file."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from openclef.simulate.reports.dice import Dice

Section = Literal[
    "indication", "history", "medications", "technique", "description", "impression", "correlation"
]


class Author(BaseModel):
    """Habits of one reader.

    Attributes
    ----------
    sections, headings : tuple, mapping
        Sections in order, and what each is headed with.
    layout : {"prose", "topics", "bullets", "numbered", "checklist"}
        How the description is laid out; `topics` has a heading a topic, listed in `topics`.
    one_paragraph : bool
        Prose without breaks.
    short : bool
        Fragments rather than sentences.
    verbosity : float
        Probability factor, 0 to 1, of saying what is normal or absent.
    hedges : tuple of str
        Favourite hedges, names of frames; hedging: how often, without any reason.
    denial : {"list", "single"}
        Absent things in one sentence, or each in its own.
    numbered : bool
        Impressions as a numbered list rather than in one sentence.
    abbreviated, british, upper, old_terms : bool
        PDR for posterior dominant rhythm; British spelling; all in capitals; names from before
        the ACNS terms (PLEDs).
    typos, dictation : float
        Slips of the keyboard in 150 words; probability of a word misheard in a report.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sections: tuple[Section, ...]
    headings: dict[Section, str]
    layout: Literal["prose", "topics", "bullets", "numbered", "checklist"]
    topics: tuple[tuple[str, tuple[str, ...]], ...] = ()
    one_paragraph: bool = False
    short: bool = False
    verbosity: float
    hedges: tuple[str, ...]
    hedging: float
    denial: Literal["list", "single"]
    numbered: bool = True
    abbreviated: bool = False
    british: bool = False
    upper: bool = False
    old_terms: bool = False
    typos: float = 0.0
    dictation: float = 0.0


@cache
def load_table(name: str) -> dict[str, Any]:
    """Read a table of this package, a TOML file without its suffix."""
    file = resources.files("openclef.simulate.reports") / f"{name}.toml"
    return tomllib.loads(file.read_text(encoding="utf-8"))


@cache
def load_authors() -> Mapping[str, Author]:
    """Return the readers by name."""
    return {name: Author.model_validate(fields) for name, fields in load_table("authors").items()}


def choose_author(dice: Dice, *, home: int, n_sites: int, before: str | None) -> str:
    """Draw who reads: mostly those of the patient's site, often whoever read the session before."""
    names = list(load_authors())
    if before is not None and dice.chance(0.4):
        return before
    return dice.weighted({n: 4.0 if i % n_sites == home else 1.0 for i, n in enumerate(names)})
