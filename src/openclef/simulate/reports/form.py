"""A form: boxes, ticked or not, as some departments have instead of a description."""

from __future__ import annotations

from openclef.simulate.patients import Session
from openclef.simulate.reports.description import pdr_hz
from openclef.simulate.reports.signs import Seen
from openclef.simulate.reports.wording import Line

# One box may stand for several flags: empty, it denies all; ticked, the comment tells which.
_BOXES = {
    "Low voltage": ("low_voltage",),
    "Excess beta": ("diffuse_beta",),
    "Generalized slowing": ("generalized_slowing",),
    "Focal slowing": ("focal_slowing",),
    "Epileptiform discharges": ("spikes",),
    "Periodic discharges": ("lpd", "gpd", "bipd"),
    "Rhythmic delta activity": ("lrda", "grda"),
    "Burst suppression": ("burst_suppression",),
    "Electrographic seizures": ("seizure",),
}


def checklist(seen: Seen, session: Session) -> list[Line]:
    """Return the boxes; each says something."""
    lines = [
        _box("Awake", ("awake",), "awake" in seen.states),
        _box("Drowsy", ("n1",), "n1" in seen.states),
        _box("N2 sleep", ("sleep",), "n2" in seen.states),
        _box("Sleep spindles", ("spindles",), "spindles" in seen.figures),
    ]
    if seen.pdr is not None:
        rhythm = f"Posterior dominant rhythm{f' {pdr_hz(session)} Hz' if seen.pdr else ''}"
        lines.append(_box(rhythm, ("posterior_dominant_rhythm",), seen.pdr))
    called = {flag for sign in seen.signs.values() for flag in sign.flags}
    for label, flags in _BOXES.items():
        lines.append(_box(label, flags, not called.isdisjoint(flags)))
    return lines


def _box(label: str, flags: tuple[str, ...], is_ticked: bool) -> Line:
    said = {} if is_ticked and len(flags) > 1 else dict.fromkeys(flags, is_ticked)
    return Line(f"[{'x' if is_ticked else ' '}] {label}", said)
