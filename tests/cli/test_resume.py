"""`kill -9` at any stage, and the same command again: the held-out table of an unbroken run."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest

COMMAND = [sys.executable, "-c", "from openclef.cli import main; main()", "run"]
# What appears while each stage is at work.
MARKERS = {
    "ingest": "cohort/parts/S000003.json",
    "tokenizer": "tokenizer/checkpoints/last.safetensors",
    "encoder": "encoder/checkpoints/last.safetensors",
    "align": "aligned/config.json",
    "embed": "embeddings/clef_aligned/config.json",
    "benchmark": "benchmark/config.json",
}


def start(hospital: Path, out: Path) -> subprocess.Popen:
    command = [*COMMAND, str(hospital), "--out", str(out), "--recipe", "tiny"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def kill_when(process: subprocess.Popen, marker: Path) -> None:
    while not marker.exists():
        assert process.poll() is None, f"{marker} never came: {process.communicate()[0]}"
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()


@pytest.mark.slow
def test_killed_at_every_stage_and_run_again(hospital, finished_run, tmp_path):
    out = tmp_path / "run"
    for stage, marker in MARKERS.items():
        kill_when(start(hospital, out), out / marker)
        manifests = {path.parent.name for path in out.rglob("manifest.json")}
        assert stage not in manifests - {"tokenizer", "encoder"}
    process = start(hospital, out)
    output = process.communicate()[0]
    assert process.returncode == 0, output

    def table(folder: Path) -> pl.DataFrame:
        return pl.read_parquet(folder / "benchmark" / "results.parquet")

    assert table(out).equals(table(finished_run))
    for name in ("tokenizer/tokenizer", "encoder/encoder", "aligned/encoder", "model/model"):
        ours, theirs = (f / f"{name}.safetensors" for f in (out, finished_run))
        assert ours.read_bytes() == theirs.read_bytes(), name
    shutil.rmtree(out)
