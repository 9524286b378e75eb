"""What lies beside a simulated hospital: the causal graph, and which electrodes are bridged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from openclef.signal import open_recording
from openclef.signal.montage import order_channels
from openclef.simulate import (
    SimulationConfig,
    expected_recordings,
    make_recording,
    simulate,
)
from openclef.simulate.findings import PATTERNS
from openclef.simulate.parameters import load_hospital
from openclef.simulate.state import ICU_LARGER, SLEEPIER
from openclef.simulate.truth import causal_graph
from openclef.types import CHANNELS, FloatArray

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


def recorded_uv(path: Path) -> FloatArray:
    """`CHANNELS` of a file, bad ones included."""
    file = open_recording(path)
    return order_channels(file.read(start_s=0.0, stop_s=file.duration_s)).signal_uv


@pytest.mark.usefixtures("in_process")
def test_bridged_to_names_the_electrode_that_records_the_same(tmp_path: Path) -> None:
    config = SimulationConfig(n_patients=90, seed=1, n_sites=4, shortest_s=10, longest_s=10)
    simulate(tmp_path / "out", config=config, progress=False, recordings=False)
    paths = expected_recordings(tmp_path / "out")
    sessions = pl.read_parquet(tmp_path / "out" / "truth" / "sessions.parquet")
    columns = ("participant_id", "session_id", "bad_channels", "bad_kinds", "bridged_to")
    n_bridged = n_others = 0
    for participant, session, *bad in sessions.select(columns).iter_rows():
        # Parallel, null where nothing is bridged.
        assert [kind == "bridged" for kind in bad[1]] == [name is not None for name in bad[2]]
        n_others += bad[2].count(None)
        for name, _, neighbour in zip(*bad, strict=True):
            # A flat neighbour records its own amplifier's noise.
            if neighbour is None or dict(zip(*bad[:2], strict=True)).get(neighbour) == "flat":
                continue
            (path,) = (p for p in paths if p.startswith(f"{participant}/{session}/"))
            signal_CS = recorded_uv(make_recording(tmp_path / "out", path))
            with np.errstate(invalid="ignore"):
                r_C = np.corrcoef(signal_CS)[CHANNELS.index(name)]
            best = np.argsort(np.nan_to_num(r_C))[::-1]
            # The same potential, only each with its own gain; the next best is another signal.
            assert {CHANNELS[row] for row in best[:2]} == {name, neighbour}
            assert r_C[best[1]] > 0.999 > r_C[best[2]]
            n_bridged += 1
    assert n_bridged >= 4
    assert n_others >= 4
