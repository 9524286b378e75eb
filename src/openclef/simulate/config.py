"""What a simulated hospital is asked for: size, seed, layout, and which table of causes."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from openclef.types import SFREQ_HZ, WINDOW_S

Layout = Literal["bids", "heedb"]
Stream = Literal[
    "patient", "session", "course", "findings", "background", "artefacts", "amplifier",
    "notes", "records",
]  # fmt: skip
_STREAMS: tuple[Stream, ...] = Stream.__args__  # type: ignore[attr-defined]


class SimulationConfig(BaseModel):
    """A simulated hospital.

    Attributes
    ----------
    n_patients, seed : int
        How many patients, and the one seed of everything drawn.
    hospital : str
        Table of causes, traits and sites: a file of `simulate/hospitals/` without its suffix.
    n_sites : int
        How many of the table's sites, in its order.
    layout : {"bids", "heedb"}
        How the data set lies on disk.
    shortest_s, longest_s : int
        Sessions last a whole number of seconds between the two; the default is one window [P].
    sfreq : float or "native"
        Sampling frequency in Hz (whole: EDF records last one second), or each site's own.
    effect_size : float
        Scales the trace of every disease and medication; 0 leaves none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    n_patients: int = Field(320, ge=1)
    seed: int = Field(0, ge=0)
    hospital: str = "v1"
    n_sites: int = Field(2, ge=1)
    layout: Layout = "bids"
    shortest_s: int = Field(WINDOW_S, ge=10)
    longest_s: int = Field(WINDOW_S, ge=10, le=24 * 3600)
    sfreq: Literal["native"] | float = SFREQ_HZ
    effect_size: float = Field(1.0, ge=0, le=3)

    @model_validator(mode="after")
    def _check(self) -> SimulationConfig:
        if self.shortest_s > self.longest_s:
            raise ValueError(f"shortest_s {self.shortest_s} is above longest_s {self.longest_s}")
        if self.sfreq != "native" and not (100 <= self.sfreq <= 1024 and self.sfreq % 1 == 0):
            raise ValueError(f"sfreq {self.sfreq}: a whole number from 100 to 1024, or native")
        return self

    def generator(self, stream: Stream, *, patient: int, session: int = 0) -> np.random.Generator:
        """Return the generator of one purpose, patient and session, independent of all others."""
        key = (_STREAMS.index(stream), patient, session)
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=key))
