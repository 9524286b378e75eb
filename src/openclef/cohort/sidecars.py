"""What BIDS says of the channels of one recording: those marked bad, and their units."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from openclef.errors import RecordingError

_MISSING = ("", "n/a")


@dataclass(frozen=True)
class ChannelsTsv:
    """Labels as the table writes them. units: label -> unit, only where one is told."""

    bad: frozenset[str]
    units: Mapping[str, str]


def read_channels_tsv(recording: Path) -> ChannelsTsv | None:
    """Read the `*_channels.tsv` beside a `*_eeg.*` recording; None if there is none.

    Only the file of the recording's own name counts, not one further up that BIDS would let it
    inherit.

    Raises
    ------
    RecordingError
        The table cannot be read, or has no column `name`.
    """
    stem, eeg, _ = recording.name.rpartition("_eeg.")
    path = recording.with_name(f"{stem}_channels.tsv")
    if not eeg or not path.is_file():
        return None
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            lines = list(csv.reader(handle, delimiter="\t"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RecordingError(f"{path}: cannot be read as a table ({error})") from error
    header = [name.strip().lower() for name in lines[0]] if lines else []
    if "name" not in header:
        raise RecordingError(f"{path}: no column 'name' among its {len(header)} columns")
    bad, units = set(), {}
    for line in lines[1:]:
        row = {key: cell.strip() for key, cell in zip(header, line, strict=False)}
        label = row.get("name", "")
        if row.get("status", "").lower() == "bad":
            bad.add(label)
        if row.get("units", "").lower() not in _MISSING:
            units[label] = row["units"]
    return ChannelsTsv(frozenset(bad - {""}), units)
