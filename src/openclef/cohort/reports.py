"""Reports: only what was seen in the EEG goes on.

History, indication and drugs are the benchmark's labels. They are cut off here, at the door, so
that no later stage can read them.
"""

from __future__ import annotations

import re

# A heading: a line that starts with a short name and a colon, numbered or marked up or not; or a
# line of capitals alone. What is no heading we know ends a section, so be generous here.
_HEADING = re.compile(
    r"^[ \t]*(?P<bullet>-[ \t]+)?(?:[#*>]+[ \t]*)?(?:\d+[.)][ \t]*)?(?:\*\*)?"
    r"(?:(?P<name>[A-Za-z][A-Za-z0-9 ,/&()'-]{1,60}?)[ \t]*(?:\*\*)?[ \t]*:"
    r"|(?P<capitals>[A-Z][A-Z0-9 ,/&()'-]{2,60})[ \t]*(?:\*\*)?[ \t]*$"
    r"|(?P<dash>[A-Z][A-Za-z]+(?: [A-Za-z]+){0,3}) [-\u2013\u2014] )",
    re.MULTILINE,
)
_ELECTROGRAPHIC = frozenset(
    {
        "findings", "eeg findings", "description", "eeg description", "description of the record",
        "description of record", "description of the eeg", "background", "background activity",
        "epileptiform activity", "epileptiform discharges", "interictal activity", "seizures",
        "sleep", "impression", "eeg impression", "interpretation", "eeg interpretation",
        "conclusion", "conclusions", "summary of findings",
    }
)  # fmt: skip


def electrographic_text(report: str) -> str | None:
    """Return the findings and impression sections of a report, None if it has neither.

    A section runs from its heading to the next one. Only headings known to be electrographic,
    word for word, open one: "IMPRESSION AND PLAN" does not. Drugs named inside a findings or
    impression section are not recognised and stay.
    """
    headings = [h for h in _HEADING.finditer(report) if not _is_listed_sentence(h)]
    ends = [heading.start() for heading in headings[1:]] + [len(report)]
    kept = []
    for heading, end in zip(headings, ends, strict=False):
        name = heading["name"] or heading["capitals"] or heading["dash"]
        if " ".join(name.lower().split()) not in _ELECTROGRAPHIC:
            continue
        text = " ".join(report[heading.end() : end].split())
        if text:
            kept.append(text)
    return "\n".join(kept) or None


def _is_listed_sentence(heading: re.Match[str]) -> bool:
    """A list's "- There were discharges: right temporal" is a finding, "- Drugs:" a heading."""
    return heading["bullet"] is not None and len((heading["name"] or "").split()) > 3
