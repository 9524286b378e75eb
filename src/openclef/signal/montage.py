"""Channel labels as hospitals write them -> the 19 electrodes of `types.CHANNELS`, in order."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from openclef.errors import RecordingError
from openclef.types import CHANNELS, Recording

# T3=T7, T4=T8, T5=P7, T6=P8: the two generations of the 10-20 system (paper.md, Signal [C]).
_RENAMED = {"T7": "T3", "T8": "T4", "P7": "T5", "P8": "T6"}
_CANONICAL = {name.upper(): name for name in CHANNELS} | _RENAMED

_PREFIX = re.compile(r"^(?:EEG|POL)[\s-]+", re.IGNORECASE)
_REFERENCE = re.compile(r"-(REF|LE|AR|AVG|A1|A2|M1|M2)$", re.IGNORECASE)
# MNE numbers the repeats of a label: Fp1-0, Fp1-1.
_REPEAT = re.compile(r"(?<=[A-Z0-9])-\d+$", re.IGNORECASE)
_BIPOLAR = re.compile(r"^[A-Z]{1,3}(?:\d{1,2}|Z)-[A-Z]{1,3}(?:\d{1,2}|Z)$", re.IGNORECASE)
_GRID_CONTACT = re.compile(r"^([A-Z])(\d{1,3})$")
_LAST_1020_NUMBER = 10

NOT_EEG = "not one of the 19 electrodes"
BIPOLAR = "bipolar derivation"
DUPLICATE = "duplicate of an earlier channel"
GRID = "contact of a numbered grid or cap"


@dataclass(frozen=True)
class ChannelMatch:
    """How the channels of a file map to the 19.

    labels: as given. index: canonical name -> position in `labels`, in the order of the 19.
    references: those the labels name (`REF`, `LE`, `A1`, ...), sorted; empty if none does.
    dropped: (label, reason) of every other channel.
    """

    labels: tuple[str, ...]
    index: dict[str, int]
    references: tuple[str, ...]
    dropped: tuple[tuple[str, str], ...]

    def explain_empty(self) -> str:
        """Say why no channel matched, for an error message."""
        given = ", ".join(self.labels[:8]) + (", ..." if len(self.labels) > 8 else "")
        counts = Counter(reason for _, reason in self.dropped)
        hints = "".join(
            f"; {counts[reason]} of them: {reason}, {hint}"
            for reason, hint in (
                (BIPOLAR, "from which an electrode cannot be recovered"),
                (GRID, "whose names only look like electrodes"),
            )
            if counts[reason]
        )
        return (
            f"no channel is one of the 19 electrodes {' '.join(CHANNELS)}; "
            f"given ({len(self.labels)}): {given or 'none'}{hints}"
        )


def _without_prefix(label: str) -> str:
    """`EEG Fp1 - Ref.` -> `Fp1-Ref`."""
    return re.sub(r"[\s.]", "", _PREFIX.sub("", label.strip()))


def canonical_name(label: str) -> str | None:
    """Name of the electrode a channel label stands for.

    Parameters
    ----------
    label
        As the file has it: `EEG FP1-REF`, `Fp1.`, `POL T7`, `c3-A2`. Referential suffixes are
        stripped, the signal is kept as recorded (paper.md, Signal [C]).

    Returns
    -------
    str or None
        One of `types.CHANNELS`, or None: not an electrode of the 19, or a bipolar derivation
        (`Fp1-F7` is a difference of two electrodes, never Fp1).
    """
    name = _REPEAT.sub("", _without_prefix(label))
    return _CANONICAL.get(_REFERENCE.sub("", name).upper())


def _grid_letters(names: Iterable[str]) -> set[str]:
    """Letters whose numbers run past any of 10-20's: a BioSemi cap's or a depth grid's C1..C32.

    Its C3 is not the scalp's C3.
    """
    contacts = [_GRID_CONTACT.match(name.upper()) for name in names]
    return {hit[1] for hit in contacts if hit and int(hit[2]) > _LAST_1020_NUMBER}


def match_channels(labels: Iterable[str]) -> ChannelMatch:
    """Find the 19 electrodes among the channel labels of a file.

    The first of several channels of one electrode wins. No match at all is not an error here:
    `index` is then empty.
    """
    labels = tuple(labels)
    grid_letters = _grid_letters(_without_prefix(label) for label in labels)
    found: dict[str, int] = {}
    references: set[str] = set()
    dropped: list[tuple[str, str]] = []
    for position, label in enumerate(labels):
        plain = _REPEAT.sub("", _without_prefix(label))
        name = canonical_name(label)
        if name is None:
            dropped.append((label, BIPOLAR if _BIPOLAR.match(plain) else NOT_EEG))
        elif plain[0].upper() in grid_letters:
            dropped.append((label, GRID))
        elif name in found:
            dropped.append((label, DUPLICATE))
        else:
            found[name] = position
            if reference := _REFERENCE.search(plain):
                references.add(reference[1].upper())
    index = {name: found[name] for name in CHANNELS if name in found}
    return ChannelMatch(labels, index, tuple(sorted(references)), tuple(dropped))


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
    match = match_channels(recording.ch_names)
    if not match.index:
        raise RecordingError(match.explain_empty())
    signal_uv = np.zeros((len(CHANNELS), recording.signal_uv.shape[1]), np.float32)
    channel_mask = np.ones(len(CHANNELS), np.bool_)
    for row, name in enumerate(CHANNELS):
        position = match.index.get(name)
        if position is not None and not recording.channel_mask[position]:
            signal_uv[row] = recording.signal_uv[position]
            channel_mask[row] = False
    return replace(recording, signal_uv=signal_uv, ch_names=CHANNELS, channel_mask=channel_mask)
