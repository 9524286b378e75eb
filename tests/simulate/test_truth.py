"""The causal graph that lies beside a simulated hospital."""

from __future__ import annotations

import pytest

from openclef.simulate.findings import PATTERNS
from openclef.simulate.parameters import load_hospital
from openclef.simulate.state import ICU_LARGER, SLEEPIER
from openclef.simulate.truth import causal_graph

Edges = dict[tuple[str, str, str], float]


@pytest.fixture(scope="module")
def edges() -> Edges:
    graph = causal_graph(load_hospital("v1"))
    found = {(e["from"], e["to"], e["kind"]): e["weight"] for e in graph["edges"]}
    assert len(found) == len(graph["edges"])
    assert {node for edge in found for node in edge[:2]} <= graph["nodes"].keys()
    return found


def test_a_setting_shifts_sleep_drive_and_intensive_care_enlarges(edges: Edges) -> None:
    direct = {
        edge: weight
        for edge, weight in edges.items()
        if edge[0].startswith("setting=") and edge[1].startswith("trait:")
    }
    assert direct == {
        **{(f"setting={s}", "trait:sleep_drive", "shift_sd"): z for s, z in SLEEPIER.items()},
        **{("setting=icu", f"trait:{t}", "factor"): x for t, x in ICU_LARGER.items()},
    }


def test_findings_of_some_settings_have_factor_zero_in_the_others(edges: Edges) -> None:
    hospital = load_hospital("v1")
    closed = {edge[:2] for edge, weight in edges.items() if edge[2] == "factor" and weight == 0}
    assert closed == {
        (f"setting={setting}", f"finding:{name}")
        for name, pattern in PATTERNS.items()
        for setting in hospital.settings
        if pattern.settings and setting not in pattern.settings
    }
    assert ("setting=routine", "finding:burst_suppression") in closed
    assert ("setting=icu", "finding:burst_suppression") not in closed
