"""Frozen cohorts: simulated hospitals that results are compared on, for good.

A cohort is a `SimulationConfig` and the hash of the generator that it was frozen with. Any change
of the simulator is another generator: the hash no longer fits, the cohort can no longer be made,
and either a new one (v2) is frozen and every row is run again, baselines included, or it is shown
that the change left its content as it was (`digest`) and the hash alone is renewed.
"""

from __future__ import annotations

import hashlib
import json
from importlib import resources

import numpy as np
import polars as pl
import polars.selectors as cs
from pydantic import BaseModel, ConfigDict

from openclef.errors import OpenclefError, choose
from openclef.simulate import SimulationConfig
from openclef.simulate.eeg.events import events_table
from openclef.simulate.eeg.session import draw_truth, make_signal
from openclef.simulate.parameters import generator_hash
from openclef.simulate.people import draw_patient
from openclef.simulate.records import patient_events
from openclef.simulate.reports import Reading, read_session

N_DIGESTED = 12
N_SIGNALS = 3


class FrozenCohort(BaseModel):
    """A cohort of `cohorts.json`.

    about: what it is for. config: what is simulated. generator: `simulate.generator_hash()` when it
    was frozen. digest: `digest(config)` then.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    about: str
    config: SimulationConfig
    generator: str
    digest: str


def read_cohorts() -> dict[str, FrozenCohort]:
    """All frozen cohorts by name."""
    text = (resources.files("openclef.recipes") / "cohorts.json").read_text(encoding="utf-8")
    return {name: FrozenCohort.model_validate(cohort) for name, cohort in json.loads(text).items()}


def get_cohort(name: str) -> SimulationConfig:
    """Return the configuration of a frozen cohort.

    Raises
    ------
    OpenclefError
        If there is no such cohort, or the simulator is not the one it was frozen with.
    """
    cohorts = read_cohorts()
    cohort = cohorts[choose(name, cohorts, "frozen cohort")]
    now = generator_hash()
    if cohort.generator != now:
        raise OpenclefError(
            f"cohort {name} was frozen with generator {cohort.generator[:12]}, this is {now[:12]}; "
            "use the release that made it, or simulate without --cohort"
        )
    return cohort.config


def digest(config: SimulationConfig) -> str:
    """sha256 over what the first patients are, what happens in their sessions and what is written.

    Numbers are rounded, so that the last bits of another machine's arithmetic do not count. Of the
    signal, its median size in each of the first sessions is all that enters.
    """
    whole = hashlib.sha256()

    def add(value: object) -> None:
        whole.update(json.dumps(value, sort_keys=True, default=str).encode())

    for index in range(N_DIGESTED):
        patient = draw_patient(config, index=index)
        add([patient.sex, patient.race, patient.site_name, patient.birth, patient.diseases])
        add([[event.time, event.code] for event in patient_events(patient, config=config)])
        reading: Reading | None = None
        for session in patient.sessions:
            truth = draw_truth(config, patient, session)
            add([[e.cause, e.kind, e.target, round(e.value, 6)] for e in session.effects])
            add({name: round(level, 6) for name, level in session.levels.items()})
            add([sorted(session.findings), session.drugs, session.bad_channels])
            events = events_table(truth.events).with_columns(cs.float().cast(pl.Float64).round(3))
            add(events.rows())
            reading = read_session(config, patient, session, truth, earlier=reading)
            add([reading.text, reading.said])
        if index < N_SIGNALS:
            first = patient.sessions[0]
            signal_CS = make_signal(config, patient, first, draw_truth(config, patient, first))
            add(f"{np.median(signal_CS.std(axis=1)):.2g}")
    return whole.hexdigest()
