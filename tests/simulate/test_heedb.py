"""The HEEDB-shaped data set is read back to the same cohort as the BIDS-shaped one."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from openclef.cohort.ehr import patient_codes, read_events
from openclef.cohort.engine import LocalEngine
from openclef.cohort.ingest import IngestConfig, ingest
from openclef.cohort.layouts import Source, read_report, read_source
from openclef.cohort.store import Cohort
from openclef.errors import ArtefactError
from openclef.simulate import SimulationConfig, make_recording, simulate

# A seed with all four sites, a session without a report and a patient without a record.
CONFIG = SimulationConfig(n_patients=12, seed=16, n_sites=4, shortest_s=60, longest_s=60)
LAYOUTS = ("bids", "heedb")


@pytest.fixture(scope="module")
def sources(
    tmp_path_factory: pytest.TempPathFactory, in_process_while_made: AbstractContextManager[None]
) -> dict[str, Source]:
    root = tmp_path_factory.mktemp("layouts")
    with in_process_while_made:
        for layout in LAYOUTS:
            config = CONFIG.model_copy(update={"layout": layout})
            simulate(root / layout, config=config, progress=False)
    return {layout: read_source(root / layout) for layout in LAYOUTS}


def rows(source: Source, findings: tuple[str, ...]) -> list[tuple[Any, ...]]:
    """What is known of each session, by subject and order; findings: those that both can hold."""
    found = []
    order: dict[int, int] = {}
    for session in source.sessions:
        order[session.subject_id] = order.get(session.subject_id, 0) + 1
        asserted = tuple(n for n in findings if session.findings.get(n) == 1)
        found.append(
            (
                session.subject_id, order[session.subject_id], session.site, session.setting,
                session.age, session.sex, session.race, session.size_bytes,
                read_report(session), asserted,
            )
        )  # fmt: skip
    return sorted(found, key=lambda row: row[:2])


def test_each_layout_is_recognised(sources: dict[str, Source]) -> None:
    assert {layout: source.layout for layout, source in sources.items()} == {
        layout: layout for layout in LAYOUTS
    }
    assert sources["heedb"].n_missing == 0


def test_sessions_reports_and_asserted_findings_are_the_same(sources: dict[str, Source]) -> None:
    names = sources["bids"].findings
    assert len(names) == 15
    assert set(names) < set(sources["heedb"].findings)
    bids, heedb = (rows(sources[layout], names) for layout in LAYOUTS)
    for one, other in zip(bids, heedb, strict=True):
        assert one == other
    assert len({row[2] for row in bids}) > 2
    assert any(row[-1] for row in bids)
    assert any(row[-2] is None for row in bids)


def test_codes_of_each_patient_are_the_same_and_have_no_dates(sources: dict[str, Source]) -> None:
    bids, heedb = (read_events(sources[layout].records) for layout in LAYOUTS)
    assert patient_codes(bids) == patient_codes(heedb)
    assert heedb["time"].null_count() == heedb.height
    assert bids["time"].null_count() < bids.height


def test_windows_of_the_cohorts_are_the_same(sources: dict[str, Source], tmp_path: Path) -> None:
    tables = []
    for layout in LAYOUTS:
        out = tmp_path / layout
        ingest(
            sources[layout], out, config=IngestConfig(), engine=LocalEngine(n_workers=2),
            progress=False,
        )  # fmt: skip
        cohort = Cohort(out)
        assert cohort.table("errors").height == 0
        keys = cohort.sessions.sort("subject_id", "start_time")
        windows = cohort.windows.join(keys.select("session_id", "subject_id"), on="session_id")
        hashes = [
            (subject, cohort.spectrogram(row).power_db.tobytes())
            for subject, row in windows.sort("subject_id", "row").select("subject_id", "row").rows()
        ]
        tables.append((keys.drop("session_id", "recording_id", "path"), sorted(hashes)))
    (bids, bids_windows), (heedb, heedb_windows) = tables
    assert bids_windows == heedb_windows
    differing = {name for name in bids.columns if not bids[name].equals(heedb[name])}
    # Dates are shifted by a key and the subject's name, which is another one in each layout.
    assert differing == {"start_time"}


def test_one_site_leaves_the_patient_blank_and_spells_its_headers_its_own_way(
    sources: dict[str, Source],
) -> None:
    folder = sources["heedb"].root / "EEG" / "eeg-metadata"
    tables = [pl.read_csv(path) for path in sorted(folder.glob("*.csv"))]
    assert len({tuple(found.columns) for found in tables}) == len(tables) == 4
    patients = [found.to_series(1) for found in tables if found.height]
    assert [found.null_count() == len(found) for found in patients].count(True) == 1


def test_a_recording_is_made_by_its_own_path_alone(sources: dict[str, Source]) -> None:
    root = sources["heedb"].root
    path = sources["heedb"].sessions[0].path
    before = path.read_bytes()
    path.unlink()
    relative = path.relative_to(root).as_posix()
    assert make_recording(root, relative).read_bytes() == before
    site = path.relative_to(root).parts[2]
    other = "S0002" if site != "S0002" else "S0001"
    with pytest.raises(ArtefactError, match="has no recording"):
        make_recording(root, relative.replace(site, other))
