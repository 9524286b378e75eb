"""Events: everything that happens in a session, drawn before any signal, and its ground truth.

Modules that draw events return `Events`, one a kind and place; the waveforms are made of them
alone, so what is written to `truth/` is what is in the signal.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from openclef.simulate.eeg.head import Place

Times = NDArray[np.float64]

SCHEMA: dict[str, pl.DataType] = {
    "kind": pl.String(),
    "onset_s": pl.Float64(),
    "duration_s": pl.Float32(),
    "amplitude_uv": pl.Float32(),
    "frequency_hz": pl.Float32(),
    "side": pl.String(),
    "region": pl.String(),
    "channels": pl.List(pl.String),
}


@dataclass(frozen=True, eq=False)
class Events:
    """Events of one kind at one place, in the order of their onsets.

    kind: a name of `findings.PATTERNS`, or of sleep, provocation, rhythm or artefact. place: where
    on the head; None for what is not on the head (a state). onset_s, duration_s: `[N]` from the
    start of the session. amplitude_uv: `[N]` peak at the electrode that sees it best (0 for
    states). frequency_hz: `[N]`, NaN where there is none.
    """

    kind: str
    place: Place | None
    onset_s: Times
    duration_s: Times
    amplitude_uv: Times
    frequency_hz: Times

    @classmethod
    def of(
        cls,
        kind: str,
        place: Place | None,
        onset_s: ArrayLike,
        *,
        duration_s: ArrayLike,
        amplitude_uv: ArrayLike = 0.0,
        frequency_hz: ArrayLike = np.nan,
    ) -> Events:
        """Sort by onset; scalars hold for all events."""
        onset = np.asarray(onset_s, np.float64)
        order = np.argsort(onset, kind="stable")

        def column(values: ArrayLike) -> Times:
            return np.broadcast_to(np.asarray(values, np.float64), onset.shape)[order].copy()

        return cls(
            kind, place, onset[order], column(duration_s), column(amplitude_uv),
            column(frequency_hz),
        )  # fmt: skip

    def those(self, chosen: NDArray[np.bool_]) -> Events:
        """Return the events that a mask `[N]` chooses."""
        return Events(
            self.kind, self.place, self.onset_s[chosen], self.duration_s[chosen],
            self.amplitude_uv[chosen], self.frequency_hz[chosen],
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.onset_s)


def of_kind(events: Iterable[Events], *kinds: str) -> list[Events]:
    """Return the groups of some kinds that hold any event."""
    return [group for group in events if group.kind in kinds and len(group)]


def events_table(events: Iterable[Events]) -> pl.DataFrame:
    """One row an event, columns of `SCHEMA`, by kind and time."""
    groups = [group for group in events if len(group)]
    if not groups:
        return pl.DataFrame(schema=SCHEMA)
    places = [group.place for group in groups]
    of_groups = pl.DataFrame(
        {
            "kind": [group.kind for group in groups],
            "side": [place.side if place else None for place in places],
            "region": [place.region if place else None for place in places],
            "channels": [list(place.channels) if place else [] for place in places],
        },
        schema={name: SCHEMA[name] for name in ("kind", "side", "region", "channels")},
    )
    numbers = {
        name: np.concatenate([getattr(group, name) for group in groups])
        for name in ("onset_s", "duration_s", "amplitude_uv", "frequency_hz")
    }
    table = of_groups[np.repeat(np.arange(len(groups)), [len(group) for group in groups])]
    table = table.with_columns(pl.Series(name, values) for name, values in numbers.items())
    table = table.select(pl.col(name).cast(kind) for name, kind in SCHEMA.items())
    return table.sort("kind", "onset_s", "side", maintain_order=True)
