"""`truth/`: what no hospital knows. Tables of what is so, and of what made it so.

Never read by training: it is there to check what a model has learnt, and to see what could have
been learnt at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl

from openclef.artefact import atomic, write_json
from openclef.simulate.config import SimulationConfig
from openclef.simulate.eeg.amplifier import bridges
from openclef.simulate.eeg.events import events_table
from openclef.simulate.eeg.session import Truth
from openclef.simulate.findings import PATTERNS
from openclef.simulate.parameters import Cause, Hospital, load_hospital
from openclef.simulate.parts import Rows, Schema, chunks, read_events
from openclef.simulate.patients import Patient, Session
from openclef.simulate.state import ICU_LARGER, SLEEPIER
from openclef.simulate.traits import TRAITS

_KEYS: Schema = {"participant_id": pl.String, "session_id": pl.String}
_PATIENTS = {
    "participant_id": pl.String,
    "subject_id": pl.Int64,
    "birth": pl.Date,
    "sex": pl.String,
    "race": pl.String,
    "site": pl.String,
    "side": pl.String,
    "region": pl.String,
    "has_record": pl.Boolean,
    "domains": pl.List(pl.Struct({"name": pl.String, "liability": pl.Float64})),
    "diseases": pl.List(pl.Struct({"name": pl.String, "onset": pl.Date})),
}
_SESSIONS = {
    **_KEYS,
    "age": pl.Float64,
    "setting": pl.String,
    "duration_s": pl.Int64,
    "sfreq_hz": pl.Int64,
    "has_report": pl.Boolean,
    "author": pl.String,
    "medications": pl.List(pl.String),
    "atc_codes": pl.List(pl.String),
    "bad_channels": pl.List(pl.String),
    "bad_kinds": pl.List(pl.String),
    "bridged_to": pl.List(pl.String),
    **dict.fromkeys(TRAITS, pl.Float64),
    **{
        f"{name}_{what}": kind
        for name, pattern in PATTERNS.items()
        for what, kind in (
            ("strength", pl.Float64),
            ("rate", pl.Float64),
            *((("side", pl.String), ("region", pl.String)) if pattern.lateral else ()),
        )
    },
}
_EFFECTS = {
    **_KEYS,
    "cause": pl.String,
    "kind": pl.String,
    "target": pl.String,
    "value": pl.Float64,
}
TABLES = {
    "truth/patients.parquet": _PATIENTS,
    "truth/sessions.parquet": _SESSIONS,
    "truth/effects.parquet": _EFFECTS,
}

_README = """\
# Ground truth

Nothing here may be read by training. Keys: `participant_id`, `session_id`, as in the data set's
BIDS form.

- `patients.parquet`: one row a patient; `diseases` that the patient has or will have, with the day
  of onset; `domains`, liabilities to groups of diseases, which no record tells; `side` and
  `region` where the patient's abnormal lateral findings lie, and the lesion if there is one.
- `sessions.parquet`: one row a session; drugs taken (class and ATC code), bad channels, what is
  wrong with each and, if it is bridged, the neighbour it shares its potential with (which is
  recorded as badly), the author of the report, the value of every trait
  (`openclef.simulate.traits`), and of every finding (`openclef.simulate.findings`) its strength
  and rate (factors about 1; null: absent), side and region.
- `effects.parquet`: one row a session, cause and target: a `trait` is shifted by `value` standard
  deviations, a `finding` comes with probability `value` from this cause alone, a `rate` is
  multiplied by `value`.
- `events/*.parquet`: one row an event: kind, onset and duration in seconds from the start, peak in
  uV, frequency in Hz, side, region and the channels that see at least half of it. Findings, sleep
  transients, states and artefacts alike. `amplitude_uv` is before suppression and low voltage
  scale the signal of the brain.
- `graph.json`: nodes and edges of the causal graph with their weights: log odds (`log_odds`),
  probabilities (`probability`), shifts in standard deviations (`shift_sd`), factors (`factor`; 0
  to a finding: not seen in that setting). The log odds of a setting for a medication also act on
  the probabilities of its indications. Not listed: which findings exclude one another, the slower
  and larger rhythms of children, the drawn size of an EEG of intensive care, bad channels and
  artefacts by setting, and what a site's amplifier does to the signal.
"""


def truth_rows(patient: Patient, authors: dict[int, str]) -> Rows:
    """Rows of a patient in `TABLES`; authors: of the session's report, by the session's index."""
    return {
        "truth/patients.parquet": [
            {
                "participant_id": patient.name,
                "subject_id": patient.subject_id,
                "birth": _days(patient.birth),
                "sex": patient.sex,
                "race": patient.race,
                "site": patient.site_name,
                "domains": [{"name": name, "liability": z} for name, z in patient.domains.items()],
                "side": patient.side,
                "region": patient.region,
                "has_record": patient.has_record,
                "diseases": [
                    {"name": name, "onset": _days(onset)}
                    for name, onset in patient.diseases.items()
                ],
            }
        ],
        "truth/sessions.parquet": [
            _session(patient, session, authors.get(session.index)) for session in patient.sessions
        ],
        "truth/effects.parquet": [
            {"participant_id": patient.name, "session_id": session.name, **vars(effect)}
            for session in patient.sessions
            for effect in session.effects
        ],
    }


def _days(day: date) -> int:
    """Return days since 1970, as parts keep dates."""
    return (day - date(1970, 1, 1)).days


def _session(patient: Patient, session: Session, author: str | None) -> dict[str, Any]:
    bridged_to = bridges(session)
    row: dict[str, Any] = {
        "participant_id": patient.name,
        "session_id": session.name,
        "age": session.age,
        "setting": session.setting,
        "duration_s": session.duration_s,
        "sfreq_hz": session.sfreq_hz,
        "has_report": session.has_report,
        "author": author,
        "medications": list(session.drugs),
        "atc_codes": [code for code, _ in session.drugs.values()],
        "bad_channels": list(session.bad_channels),
        "bad_kinds": list(session.bad_channels.values()),
        "bridged_to": [bridged_to.get(name) for name in session.bad_channels],
        **session.levels,
    }
    for name, pattern in PATTERNS.items():
        finding = session.findings.get(name)
        for what in ("strength", "rate", *(("side", "region") if pattern.lateral else ())):
            row[f"{name}_{what}"] = getattr(finding, what) if finding else None
    return row


def patient_events(patient: Patient, truths: Sequence[Truth]) -> pl.DataFrame:
    """Return the events of all sessions of a patient, keys in front."""
    return pl.concat(
        events_table(truth.events).select(
            pl.lit(patient.name).alias("participant_id"),
            pl.lit(session.name).alias("session_id"),
            pl.all(),
        )
        for session, truth in zip(patient.sessions, truths, strict=True)
    )


def write_truth(out: Path, config: SimulationConfig) -> tuple[str, ...]:
    """Write the events of the parts, the graph and a description; return their paths."""
    names = []
    for chunk, indices in enumerate(chunks(config.n_patients)):
        names.append(f"truth/events/{chunk:05d}.parquet")
        with atomic(out / names[-1]) as temporary:
            read_events(out, indices).write_parquet(temporary)
    write_json(out / "truth" / "graph.json", causal_graph(load_hospital(config.hospital)))
    with atomic(out / "truth" / "README.md") as temporary:
        temporary.write_text(_README)
    return (*names, "truth/graph.json", "truth/README.md")


def causal_graph(hospital: Hospital) -> dict[str, Any]:
    """Nodes (name -> kind) and edges (from, to, kind, weight) of a hospital's causal graph."""
    nodes = {
        "age": "demographic",
        "sex": "demographic",
        "site": "site",
        "severity": "site",
        "setting": "setting",
        **{f"trait:{name}": "trait" for name in TRAITS},
        **{f"finding:{name}": "finding" for name in PATTERNS},
        **{f"domain:{name}": "domain" for name in hospital.domains},
        **{f"disease:{name}": "disease" for name in hospital.diseases},
        **{f"medication:{name}": "medication" for name in hospital.medications},
    }
    edges = [_edge("site", "severity", "log_odds"), _edge("site", "setting", "factor")]
    for name, trait in TRAITS.items():
        if trait.per_decade:
            edges.append(_edge("age", f"trait:{name}", "shift_sd", trait.per_decade))
    for name, base in hospital.findings.items():
        edges += [
            _edge(f"setting={setting}", f"finding:{name}", "probability", p)
            for setting, p in base.settings.items()
        ]
    edges += [
        _edge(f"setting={setting}", "trait:sleep_drive", "shift_sd", z)
        for setting, z in SLEEPIER.items()
    ]
    edges += [
        _edge("setting=icu", f"trait:{trait}", "factor", factor)
        for trait, factor in ICU_LARGER.items()
    ]
    for name, pattern in PATTERNS.items():
        edges += [
            _edge(f"setting={setting}", f"finding:{name}", "factor", 0.0)
            for setting in hospital.settings
            if pattern.settings and setting not in pattern.settings
        ]
    for name, domain in hospital.domains.items():
        edges += [
            _edge(f"domain:{name}", f"trait:{t}", "shift_sd", z) for t, z in domain.traits.items()
        ]
    for name, cause in hospital.causes():
        if cause.domain is not None:
            loading = hospital.domains[cause.domain].loading
            edges.append(_edge(f"domain:{cause.domain}", name, "log_odds", loading))
    for name, disease in hospital.diseases.items():
        node = f"disease:{name}"
        edges += _cause_edges(node, disease)
        edges += [_edge(f"disease:{d}", node, "log_odds", w) for d, w in disease.after.items()]
        if disease.severe:
            edges.append(_edge("severity", node, "log_odds", 1.0))
    for name, medication in hospital.medications.items():
        node = f"medication:{name}"
        edges += _cause_edges(node, medication)
        edges += [
            _edge(f"disease:{d}", node, "probability", p) for d, p in medication.indications.items()
        ]
    nodes |= {edge["from"]: "setting" for edge in edges if edge["from"].startswith("setting=")}
    return {"hospital": hospital.version, "nodes": nodes, "edges": edges}


def _cause_edges(node: str, cause: Cause) -> list[dict[str, Any]]:
    edges = [
        _edge(source, node, "log_odds", weight)
        for source, weight in (("age", cause.per_decade), ("sex", cause.female))
        if weight
    ]
    edges += [_edge(f"setting={s}", node, "log_odds", w) for s, w in cause.settings.items()]
    edges += [_edge(node, f"trait:{t}", "shift_sd", z) for t, z in cause.traits.items()]
    edges += [_edge(node, f"finding:{f}", "probability", p) for f, p in cause.findings.items()]
    return edges + [_edge(node, f"finding:{f}", "factor", r) for f, r in cause.rates.items()]


def _edge(source: str, target: str, kind: str, weight: float | None = None) -> dict[str, Any]:
    return {"from": source, "to": target, "kind": kind, "weight": weight}
