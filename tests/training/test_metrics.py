import json
import socket
import sys

import pytest
import toys

from openclef import artefact
from openclef.training import metrics
from openclef.training.metrics import EVENTS, open_metrics


def begin(folder):
    return artefact.begin(folder, kind="toy", config={}, inputs={})


def test_rows_hold_step_split_seconds_and_six_digits(tmp_path):
    stage = begin(tmp_path)
    with open_metrics(stage, step=0) as log:
        log.log(step=0, split="run", seconds=0.0, precision="fp32")
        log.log(step=1, split="train", seconds=1.23456, loss=1.23456789e-7)
    assert [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [
        {"step": 0, "split": "run", "seconds": 0.0, "precision": "fp32"},
        {"step": 1, "split": "train", "seconds": 1.23, "loss": 1.23457e-7},
    ]


def test_only_what_will_not_be_taken_again_is_kept(tmp_path):
    stage = begin(tmp_path)
    for row in [(0, "run"), (1, "train"), (2, "train"), (2, "tuning"), (2, "run"), (2, "end"),
                (3, "train")]:  # fmt: skip
        stage.log(step=row[0], split=row[1], seconds=0.0)
    with open_metrics(stage, step=2):
        pass
    kept = [(row["step"], row["split"]) for row in stage.metrics()]
    assert kept == [(0, "run"), (1, "train"), (2, "train"), (2, "tuning")]
    with open_metrics(stage, step=0):
        pass
    assert stage.metrics() == []


def test_other_processes_write_nothing(tmp_path):
    with open_metrics(None, step=0) as log:
        log.log(step=1, split="train", seconds=0.0, loss=1.0)
    assert not list(tmp_path.iterdir())


def test_without_tensorboard_one_line_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "openclef.training.events", raising=False)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    for name in [name for name in sys.modules if name.startswith("tensorboard.")]:
        monkeypatch.delitem(sys.modules, name)
    metrics._say_once.cache_clear()
    for name in ("a", "b"):
        with open_metrics(begin(tmp_path / name), step=0) as log:
            log.log(step=1, split="train", seconds=0.0, loss=1.0)
        assert not (tmp_path / name / "tensorboard").exists()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("no files for TensorBoard")
    assert "openclef[train]" in line


def scalars(stage):
    """What TensorBoard itself reads: (tag, step, value, seconds)."""
    event_accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="TensorBoard is not installed",
    )
    read = event_accumulator.EventAccumulator(str(stage.folder / "tensorboard")).Reload()
    return [
        (tag, point.step, point.value, point.wall_time)
        for tag in sorted(read.Tags()["scalars"])
        for point in read.Scalars(tag)
    ]


def expected_scalars(stage):
    points = [
        (f"{row['split']}/{name}", row["step"], pytest.approx(value, rel=1e-6), row["seconds"])
        for row in stage.metrics()
        if row["split"] in ("train", "tuning")
        for name, value in row.items()
        if name not in ("step", "split", "seconds")
    ]
    return sorted(points, key=lambda point: point[:2])


def test_tensorboard_reads_the_record_and_no_point_twice(tmp_path):
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    whole, _ = toys.run(tmp_path / "whole")
    assert scalars(whole) == expected_scalars(whole)
    with pytest.raises(KeyboardInterrupt):
        toys.run(tmp_path / "broken", stop_at=9)
    resumed, _ = toys.run(tmp_path / "broken")
    assert scalars(resumed) == expected_scalars(resumed)
    points = [
        [point[:3] for point in scalars(stage) if not point[0].endswith(("_per_s", "wait_s"))]
        for stage in (resumed, whole)
    ]
    assert points[0] == points[1]


def test_the_events_tell_nothing_of_the_machine(tmp_path):
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    stage, _ = toys.run(tmp_path / "a")
    (path,) = (stage.folder / "tensorboard").iterdir()
    assert path == stage.folder / EVENTS
    content = path.read_bytes()
    for secret in (socket.gethostname(), str(tmp_path), tmp_path.name):
        assert secret not in path.name
        assert secret.encode() not in content
