"""One report: what a reader sees, says, and how it is set on the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from openclef.clinical.findings import HEEDB_FLAGS, flag_name
from openclef.simulate.config import SimulationConfig
from openclef.simulate.eeg.session import Truth
from openclef.simulate.parameters import load_hospital
from openclef.simulate.patients import Patient, Session
from openclef.simulate.reports.authors import Author, choose_author, load_authors, load_table
from openclef.simulate.reports.case import syndromes, write_case
from openclef.simulate.reports.description import TOPICS, describe
from openclef.simulate.reports.dice import Dice
from openclef.simulate.reports.form import checklist
from openclef.simulate.reports.impression import conclude, correlate
from openclef.simulate.reports.signs import read
from openclef.simulate.reports.slips import in_style, with_slips
from openclef.simulate.reports.wording import Line

# Probability that a part of the report before is copied instead of written.
_COPIED = {
    "history": 0.4, "indication": 0.2, "medications": 0.3, "technique": 0.1, "background": 0.08,
    "sleep": 0.08, "activation": 0.08, "artefact": 0.1, "ekg": 0.1,
}  # fmt: skip
_LEFT_OUT = {"indication": 0.06, "history": 0.06, "medications": 0.12, "technique": 0.06}
# What a form's boxes cannot tell, and its comment does.
_COMMENTED = ("slowing", "epileptiform", "periodic", "seizures", "activation")
FLAGS = tuple(flag_name(flag) for flag in HEEDB_FLAGS)

Parts = Mapping[str, tuple[Line, ...]]


@dataclass(frozen=True)
class Reading:
    """A report, and what it says.

    text: as filed. author: style of the reader. said: every flag of HEEDB by name; True stated,
    False denied, None not mentioned. Where a copied paragraph contradicts the impression, the
    impression counts. parts: sections and topics before slips, for whoever copies them forward.
    """

    text: str
    author: str
    said: Mapping[str, bool | None]
    parts: Parts


def read_session(
    config: SimulationConfig,
    patient: Patient,
    session: Session,
    truth: Truth,
    *,
    earlier: Reading | None = None,
) -> Reading:
    """Write the report of a session.

    Parameters
    ----------
    config, patient, session : SimulationConfig, Patient, Session
        Seed, who and what was recorded.
    truth : Truth
        What happens in the session.
    earlier : Reading or None
        Report of the patient's session before, if it has one.

    Returns
    -------
    Reading
        The same for the same arguments.
    """
    dice = Dice(config.generator("notes", patient=patient.index, session=session.index))
    hospital = load_hospital(config.hospital)
    name = choose_author(
        dice,
        home=list(hospital.sites).index(patient.site_name),
        n_sites=len(hospital.sites),
        before=earlier.author if earlier else None,
    )
    author = load_authors()[name]
    seen = read(session, truth, hospital.noise, dice)
    known = syndromes(patient, session)
    case = write_case(patient, session, author, dice)
    parts: dict[str, tuple[Line, ...]] = {
        section: (Line(text, _named(known, text)),) for section, text in case.items()
    }
    if seen.uninterpretable:
        table = load_table("phrases")
        parts["artefact"] = (Line(dice.pick(table["other"]["uninterpretable"]), {}),)
        parts["impression"] = (
            Line(dice.pick(table["impression"]["uninterpretable"]), {"uninterpretable": True}),
        )
        parts["correlation"] = ()
    else:
        described = describe(seen, patient, session, truth, author, dice)
        parts |= {topic: tuple(lines) for topic, lines in described.items()}
        before = earlier.said if earlier else None
        concluded = conclude(seen, session, author, dice, syndromes=known, before=before)
        if "description" not in author.sections:
            # Whoever writes an impression alone says there what else is said in a word.
            concluded += [line for line in _brief(described) if dice.chance(0.6)]
        means = correlate(seen, session, author, dice)
        if "correlation" not in author.sections and dice.chance(0.3 * author.verbosity):
            concluded += means
        parts |= {"impression": tuple(concluded), "correlation": tuple(means)}
        if author.layout == "checklist":
            parts["form"] = tuple(checklist(seen, session))
    if earlier is not None:
        parts |= _copied(earlier, parts, author, dice)
    sections = [
        section
        for section in author.sections
        if not dice.chance(_LEFT_OUT.get(section, 0.0)) and parts.get(section, True)
    ]
    return Reading(
        _page(sections, parts, author, dice), name, _said(sections, parts, author), parts
    )


def _named(known: Mapping[str, str], text: str) -> dict[str, bool]:
    """Flags of the syndromes that a text names."""
    return {flag: True for flag, name in known.items() if name.lower() in text.lower()}


def _brief(described: Mapping[str, list[Line]]) -> list[Line]:
    """What is said of a record even in few words: rhythm, sleep, and what it is free of."""
    told = ("posterior_dominant_rhythm", "sleep")
    return [
        line
        for lines in described.values()
        for line in lines
        if False in line.said.values() or not line.said.keys().isdisjoint(told)
    ]


def _copied(
    earlier: Reading, parts: Parts, author: Author, dice: Dice
) -> dict[str, tuple[Line, ...]]:
    """Parts of the report before that go into this one as they are."""
    is_lost = earlier.said["uninterpretable"] or "background" not in parts
    return {
        part: earlier.parts[part]
        for part, probability in _COPIED.items()
        if not (is_lost and part in TOPICS)
        and part in parts
        and earlier.parts.get(part)
        and dice.chance(probability)
    }


def _shown(section: str, parts: Parts, author: Author) -> list[tuple[str, list[Line]]]:
    """Return the paragraphs of a section: heading within it, or nothing, and lines."""
    if section != "description":
        return [("", list(parts[section]))]
    if "form" in parts:
        # The form's boxes deny; its comment only states.
        comment = [
            line
            for topic in _COMMENTED
            for line in parts.get(topic, ())
            if False not in line.said.values()
        ]
        return [("", [line]) for line in (*parts["form"], *comment)]
    titles = author.topics or tuple(("", (topic,)) for topic in TOPICS)
    return [
        (title, [line for topic in topics for line in parts.get(topic, ())])
        for title, topics in titles
    ]


def _said(sections: Sequence[str], parts: Parts, author: Author) -> dict[str, bool | None]:
    """Merge what all lines on the page say; later sections overrule earlier ones."""
    said: dict[str, bool | None] = dict.fromkeys(FLAGS)
    for section in sections:
        for _, lines in _shown(section, parts, author):
            own: dict[str, bool] = {}
            for line in lines:
                own |= {flag: value or own.get(flag, False) for flag, value in line.said.items()}
            said |= own
    return said


def _page(sections: Sequence[str], parts: Parts, author: Author, dice: Dice) -> str:
    """Set the sections under their headings."""
    blocks = []
    for section in sections:
        paragraphs = [
            (title, " ".join(line.text for line in lines))
            for title, lines in _shown(section, parts, author)
            if lines
        ]
        if section == "impression" and (author.numbered or author.short):
            paragraphs = [("", line.text) for line in parts[section]]
        body = _body(section, paragraphs, author)
        body = with_slips(in_style(body, author), author, dice)
        heading = author.headings[section]  # type: ignore[index]
        is_long = "\n" in body or not heading.endswith(":")
        blocks.append(f"{heading}{chr(10) if is_long else ' '}{body}")
    text = ("\n" if author.short else "\n\n").join(blocks) + "\n"
    return text.upper() if author.upper else text


def _body(section: str, paragraphs: list[tuple[str, str]], author: Author) -> str:
    if section != "description":
        return "\n".join(text for _, text in paragraphs)
    if author.one_paragraph:
        return " ".join(text for _, text in paragraphs)
    marks = {"bullets": "- {text}", "numbered": "{n}) {text}", "topics": "{title}: {text}"}
    mark = marks.get(author.layout, "{text}")
    return "\n".join(
        mark.format(n=n, title=title, text=text) for n, (title, text) in enumerate(paragraphs, 1)
    )
