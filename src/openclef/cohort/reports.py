"""Reports: only what was seen in the EEG goes on.

History, indication and drugs are the benchmark's labels. They are cut off here, at the door, so
that no later stage can read them.
"""

from __future__ import annotations

import re

# A heading: capitals or a few words at the start of a line, then a colon.
_HEADING = re.compile(r"^[ \t]*([A-Za-z][A-Za-z /&()-]{2,60}):", re.MULTILINE)
_ELECTROGRAPHIC = (
    "finding",
    "eeg finding",
    "description",
    "eeg description",
    "impression",
    "eeg impression",
    "interpretation",
    "conclusion",
    "background",
    "epileptiform",
    "clinical correlation of eeg",
)


def electrographic_text(report: str) -> str | None:
    """Return the findings and impression sections of a report, None if it has neither.

    A section runs from its heading to the next one; a heading that is not known to be
    electrographic ends it, so that an unknown section is left out rather than let in.
    """
    headings = list(_HEADING.finditer(report))
    ends = [heading.start() for heading in headings[1:]] + [len(report)]
    kept = []
    for heading, end in zip(headings, ends, strict=False):
        name = heading.group(1).strip().lower()
        if not name.startswith(_ELECTROGRAPHIC):
            continue
        text = " ".join(report[heading.end() : end].split())
        if text:
            kept.append(text)
    return "\n".join(kept) or None
