"""Channel labels as hospitals write them -> the 19 electrodes of `types.CHANNELS`, in order.

`openclef.signal.labels` reads each label, here those of a file are weighed together. Referential
channels are kept as recorded (paper.md, Signal [C]). A file of bipolar derivations only is solved
back to potentials where its chain is connected, else nothing of it is used. What is not surely an
electrode of the 19 is dropped, with the reason.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import compress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openclef.errors import RecordingError
from openclef.signal.labels import (
    AGAINST,
    CONTACT,
    EARS,
    ROWS,
    Label,
    parse_label,
    plain_label,
    shown_label,
)
from openclef.types import CHANNELS, Recording

NOT_EEG = "not one of the 19 electrodes"
BIPOLAR = "bipolar derivation"
UNCONNECTED = "bipolar derivation outside the solved chain"
UNKNOWN_REFERENCE = "electrode against an unknown reference"
GRID = "contact of a numbered grid or cap"
BESIDE_CHAINS = "referential, beside derivations that give more electrodes"
MARKED_BAD = "marked bad"

_LINKED = ((("A1", "A2"), "linked ears"), (("M1", "M2"), "linked mastoids"))
# The average over fewer electrodes is less a reference than one of them.
_MIN_AVERAGED = 6
_SOLVABLE = f"one connected chain holds over half of the electrodes, at least {_MIN_AVERAGED}"


@dataclass(frozen=True, eq=False)
class Montage:
    """How the channels of a file make the 19 electrodes.

    labels: all of the file, as written. names: electrodes found, in the order of
    `types.CHANNELS`. picks: positions in `labels` of the channels needed to make them. mixing:
    `[len(names), len(picks)]`, potentials = mixing @ derivations; None: names[i] is channel
    picks[i] as recorded. references: one a name (`REF`, `LE`, `M2`, `Cz`, ...), or "not stated".
    dropped: (position, reason) of every channel that is not used.
    """

    labels: tuple[str, ...]
    names: tuple[str, ...]
    picks: tuple[int, ...]
    mixing: NDArray[np.float32] | None
    references: tuple[str, ...]
    dropped: tuple[tuple[int, str], ...]

    def explain_empty(self) -> str:
        """Say why no electrode was found, for an error message."""
        shown = [shown_label(label, i) for i, label in enumerate(self.labels)]
        given = ", ".join(shown[:8]) + (", ..." if len(shown) > 8 else "")
        counts = Counter(reason for _, reason in self.dropped)
        derivations = (
            parse_label(self.labels[p]) for p, reason in self.dropped if reason == BIPOLAR
        )
        pairs = [(d.electrode, d.other) for d in derivations if d and d.other]
        chains = [" ".join(chain) for chain in _chains(pairs)]
        hints = "".join(
            f"; {counts[reason]} of them: {reason}, {hint}"
            for reason, hint in (
                (BIPOLAR, f"solved only if {_SOLVABLE}; here: {' | '.join(chains)}"),
                (GRID, "whose names only look like electrodes"),
                (UNKNOWN_REFERENCE, "so perhaps a bipolar derivation"),
                (MARKED_BAD, "in the header or a file beside the recording"),
            )
            if counts[reason]
        )
        return (
            f"no channel is one of the 19 electrodes {' '.join(CHANNELS)}; "
            f"given ({len(shown)}): {given or 'none'}{hints}"
        )

    def record(self) -> dict[str, Any]:
        """Give what was mapped and dropped, ready for JSON.

        `label` of a solved electrode: the derivations it takes part in. Labels that might hold
        free text are shown as `#position`.
        """
        shown = [shown_label(label, position) for position, label in enumerate(self.labels)]
        mapped = {}
        for i, (name, reference) in enumerate(zip(self.names, self.references, strict=True)):
            if self.mixing is None:
                parts = self.picks[i : i + 1]
            else:
                parts = tuple(p for p in self.picks if name in (parse_label(self.labels[p]) or ()))
            mapped[name] = {"label": ", ".join(shown[p] for p in parts), "reference": reference}
        return {
            "mapped": mapped,
            "dropped": [{"label": shown[p], "reason": reason} for p, reason in self.dropped],
            "solved_from_bipolar": self.mixing is not None,
        }


def match_channels(labels: Iterable[str], *, bad: Collection[str] = ()) -> Montage:
    """Find the 19 electrodes among the channel labels of a file.

    Referential channels win, and of several of one electrode the one whose reference most other
    electrodes share. Without any, derivations against one common electrode are referential to it,
    and a connected bipolar chain is solved by least squares, against the linked ears if the chain
    has both, else the average of its electrodes of the 19.

    Parameters
    ----------
    labels
        As the file has them.
    bad
        Labels that a header or a file beside the recording marks bad, as written there.

    Returns
    -------
    Montage
        Without names if nothing matches, which is no error here; `explain_empty` says why.
    """
    labels = tuple(labels)
    grid = _grid_letters(labels)
    reasons: dict[int, str] = {}
    usable: dict[int, Label] = {}
    for position, label in enumerate(labels):
        found = parse_label(label)
        if label in bad or label.strip() in bad:
            reasons[position] = MARKED_BAD
        elif found is None:
            reasons[position] = (
                UNKNOWN_REFERENCE if AGAINST.fullmatch(plain_label(label)) else NOT_EEG
            )
        elif grid & found.letters:
            reasons[position] = GRID
        else:
            usable[position] = found
    referential = {p: f for p, f in usable.items() if not f.other and f.electrode in CHANNELS}
    to_ear = {p: f for p, f in usable.items() if f.other in EARS and f.electrode in CHANNELS}
    links = {p: (f.electrode, f.other) for p, f in usable.items() if f.other}
    on_scalp = [position for position, pair in links.items() if not EARS.issuperset(pair)]
    is_to_ear = 2 * len(to_ear) >= len(on_scalp)
    if not is_to_ear:  # `C4-A1` among its like is referential, `T4-A2` behind `C4-T4` ends a chain
        chained = {name for pair in links.values() if EARS.isdisjoint(pair) for name in pair}
        to_ear = {p: f for p, f in to_ear.items() if f.electrode not in chained}
    solved = None if is_to_ear else _solved(labels, links, referential, reasons)
    as_recorded = _as_recorded(labels, referential | to_ear, reasons)
    # A stray `Cz` beside the derivations must not cost the electrodes that they tell.
    if is_to_ear or (referential and len(as_recorded.names) >= len(solved.names if solved else ())):
        return as_recorded
    common = {position: usable[position] for position in on_scalp}
    n_electrodes = len({f.electrode for f in common.values()}.intersection(CHANNELS))
    if len({f.other for f in common.values()}) == 1 and n_electrodes >= 3:
        return _as_recorded(labels, common, reasons)
    return solved or as_recorded


def order_channels(recording: Recording) -> Recording:
    """Bring a recording to the 19 channels in the paper's order.

    Returns
    -------
    Recording
        signal_uv `[19, S]`; a missing electrode (or one hidden before) is zero and hidden in
        `channel_mask`.

    Raises
    ------
    RecordingError
        No channel in common with the 19.
    """
    if recording.ch_names == CHANNELS:
        return recording  # nothing to copy
    montage = match_channels(recording.ch_names)
    if montage.mixing is not None:
        # A derivation hidden before has no part in the solution.
        hidden_names = set(compress(recording.ch_names, recording.channel_mask))
        montage = match_channels(recording.ch_names, bad=hidden_names)
    if not montage.names:
        raise RecordingError(montage.explain_empty())
    rows = [CHANNELS.index(name) for name in montage.names]
    signal_uv = np.zeros((len(CHANNELS), recording.signal_uv.shape[1]), np.float32)
    channel_mask = np.ones(len(CHANNELS), np.bool_)
    made_uv = recording.signal_uv[list(montage.picks)]
    hidden = recording.channel_mask[list(montage.picks)]
    if montage.mixing is not None:
        made_uv, hidden = montage.mixing @ made_uv, np.zeros(len(rows), np.bool_)
    signal_uv[rows] = np.where(hidden[:, np.newaxis], 0.0, made_uv)
    channel_mask[rows] = hidden
    return replace(recording, signal_uv=signal_uv, ch_names=CHANNELS, channel_mask=channel_mask)


def _grid_letters(labels: Iterable[str]) -> set[str]:
    """Letters that number the contacts of a depth electrode, grid or cap: C1..C32, F1..F8.

    Its C3 is not the scalp's C3.
    """
    plain = [plain_label(label) for label in labels]
    # The scalp has F1, C1 and P1 only in caps that have the rows between, too: AF, FC, CP, PO.
    has_rows_between = any(re.match(r"(?:AF|FC|FT|CP|TP|PO)[1-9Z]", label) for label in plain)
    numbers: defaultdict[str, set[int]] = defaultdict(set)
    grid = set()
    for label in plain:
        contacts = [(letter, int(number)) for letter, number in CONTACT.findall(label)]
        for letter, number in contacts:
            numbers[letter].add(number)
            # Neighbours on a shaft, F2-F3 or F4-F5: on the scalp they lie on opposite sides.
            if number % 2 == 0 and contacts == [(letter, number), (letter, number + 1)]:
                grid.add(letter)
    for letter, found in numbers.items():
        run = set(range(1, 8 if letter == "T" else 5))  # T1 to T6 are 10-20's
        is_run = found >= run and not has_rows_between
        if max(found) > 10 or len(found.difference(ROWS.get(letter, ()))) > 1 or is_run:
            grid.add(letter)
    return grid


def _as_recorded(
    labels: tuple[str, ...], channels: Mapping[int, Label], reasons: Mapping[int, str]
) -> Montage:
    """Montage of channels that are each an electrode against a reference."""
    sharing, by_name = defaultdict(set), defaultdict(list)
    for position, found in channels.items():
        if found.electrode in CHANNELS:
            sharing[found.reference].add(found.electrode)
            by_name[found.electrode].append(position)
    kept, reasons = {}, dict(reasons)
    for name, positions in by_name.items():
        first = min(positions, key=lambda p: (-len(sharing[channels[p].reference] - {name}), p))
        reasons |= dict.fromkeys(positions, f"duplicate of {shown_label(labels[first], first)}")
        kept[name] = first
    names = tuple(name for name in CHANNELS if name in kept)
    picks = tuple(kept[name] for name in names)
    references = tuple(channels[pick].reference for pick in picks)
    return Montage(labels, names, picks, None, references, _dropped(labels, picks, reasons))


def _solved(
    labels: tuple[str, ...],
    links: Mapping[int, tuple[str, str]],
    referential: Collection[int],
    reasons: Mapping[int, str],
) -> Montage | None:
    """Potentials from bipolar derivations, or None if no chain of them is large enough."""
    reasons = dict(reasons)
    first: dict[frozenset[str], int] = {}
    for position, pair in links.items():
        same = first.setdefault(frozenset(pair), position)
        if same != position:
            reasons[position] = f"duplicate of {shown_label(labels[same], same)}"
    chains = _chains(links.values())
    n_named = sum(name in CHANNELS for chain in chains for name in chain)
    chain = max(chains, key=lambda chain: sum(name in CHANNELS for name in chain), default=[])
    names = tuple(name for name in CHANNELS if name in chain)
    linked = [(ears, said) for ears, said in _LINKED if set(ears) <= set(chain)]
    if 2 * len(names) <= n_named or (len(names) < _MIN_AVERAGED and not linked):
        return None
    averaged, reference = linked[0] if linked else (names, f"average of {len(names)}")
    references = (f"{reference}, solved from bipolar chains",) * len(names)

    rows = [position for position in first.values() if links[position][0] in chain]
    # derivations = incidence @ potentials, which fixes all but a constant: the reference's task
    incidence = np.zeros((len(rows), len(chain)))
    for row, position in enumerate(rows):
        incidence[row, [chain.index(name) for name in links[position]]] = 1.0, -1.0
    potentials = np.linalg.pinv(incidence)
    reference_of = potentials[[chain.index(name) for name in averaged]].mean(axis=0)
    mixing = potentials[[chain.index(name) for name in names]] - reference_of
    needed = np.abs(mixing).max(axis=0) > 1e-9  # a dead end like O2-Oz is not
    picks = tuple(position for position, keep in zip(rows, needed, strict=True) if keep)
    outside = dict.fromkeys(set(first.values()) - set(rows), UNCONNECTED)
    beside = {p: BESIDE_CHAINS for p in referential if p not in reasons}
    dropped = _dropped(labels, picks, reasons | outside | beside)
    return Montage(labels, names, picks, mixing[:, needed].astype(np.float32), references, dropped)


def _chains(pairs: Iterable[tuple[str, str]]) -> list[list[str]]:
    """Connected components of the graph of electrodes."""
    chains: list[list[str]] = []
    for pair in pairs:
        touched = [chain for chain in chains if set(chain) & set(pair)]
        merged = dict.fromkeys(name for chain in [*touched, list(pair)] for name in chain)
        chains = [*(chain for chain in chains if chain not in touched), list(merged)]
    return chains


def _dropped(
    labels: tuple[str, ...], picks: tuple[int, ...], reasons: Mapping[int, str]
) -> tuple[tuple[int, str], ...]:
    """Give each channel that is not picked its reason, or what its label shows it to be."""
    return tuple(
        (p, reasons.get(p) or (BIPOLAR if (f := parse_label(label)) and f.other else NOT_EEG))
        for p, label in enumerate(labels)
        if p not in picks
    )
