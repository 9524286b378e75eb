"""Fixtures that every test folder shares."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def run_two_processes() -> Callable[[Path, Path], str]:
    """Runs a script under torchrun, two processes, its argument a folder; gives stderr."""

    def run(script: Path, out: Path) -> str:
        command = ["torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        done = subprocess.run(
            [sys.executable, "-m", *command, str(script), str(out)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stderr

    return run


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real recordings, from OPENCLEF_DATA (default: ../shared/data)."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("OPENCLEF_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} does not exist; set OPENCLEF_DATA")
    return folder


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Models in tests are so small that threads only wait for each other."""
    import torch

    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that tests start


@pytest.fixture(scope="session", autouse=True)
def _a_site_key_of_the_tests_own() -> None:
    """No test reads or makes the user's own key."""
    os.environ["OPENCLEF_SITE_KEY"] = "ab" * 32


@pytest.fixture(scope="session")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulated hospital of 24 patients with sessions of 64 s."""
    from openclef.simulate import SimulationConfig, simulate

    folder = tmp_path_factory.mktemp("simulated") / "hospital"
    config = SimulationConfig(n_patients=24, seed=3, shortest_s=64, longest_s=64)
    simulate(folder, config=config, n_workers=2, progress=False)
    return folder


@pytest.fixture(scope="session")
def finished_run(hospital: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny recipe run over that hospital; tests only read it."""
    from openclef.cohort.engine import LocalEngine
    from openclef.cohort.ingest import IngestConfig
    from openclef.cohort.layouts import read_source
    from openclef.recipes import get_recipe, pipeline

    out = tmp_path_factory.mktemp("run") / "run"
    recipe = get_recipe("tiny")
    pipeline.run(
        read_source(hospital),
        out,
        recipe=recipe,
        ingest_config=IngestConfig(splits=recipe.splits),
        engine=LocalEngine(n_workers=2),
        say=lambda _: None,
    )
    return out
