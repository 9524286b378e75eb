"""`kill -9` and a full disk: the same command goes on, to the bytes of an unbroken run."""

import os
import random
import shutil
import signal
import time

import pytest
from cohorts import files_of, read, start

from openclef.cohort.engine import RayEngine

# As the command does, but for a word when its own work begins: imports are not worth a kill.
READY = """
import openclef.cohort.ingest
from openclef.cli import main
print("ready", flush=True)
main()
"""
# As the command does, until a function of the ingest is reached: from then on, no file may grow
# over so many bytes, as on a full disk.
FULL = """
import resource
from openclef.artefact import Artefact
from openclef.cli import main
from openclef.cohort import ingest
from openclef.cohort.layouts import Source

owner = {{"write": Source, "finish": Artefact}}.get("{name}", ingest)
original = getattr(owner, "{name}")

def fill(*given, **named):
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, hard))
    for engine in given:  # new workers, under the limit
        getattr(engine, "_stop", lambda: None)()
    return original(*given, **named)

setattr(owner, "{name}", fill)
main()
"""
PHASES = {
    "index": ("write", 1000), "parts": ("_read_all", 1_000_000),
    "shards": ("_write_spectrograms", 10_000), "tables": ("_write_tables", 1000),
    "page": ("write_quality_page", 20_000), "manifest": ("finish", 100),
}  # fmt: skip


@pytest.fixture(scope="module")
def unbroken(trees, tmp_path_factory):
    """Bytes of the cohort of the BIDS tree, from one worker without a break."""
    out = tmp_path_factory.mktemp("unbroken") / "cohort"
    read(trees["bids"], out)
    return files_of(out)


def differences(one: dict[str, bytes], other: dict[str, bytes]) -> set[str]:
    return {name for name in one.keys() | other.keys() if one.get(name) != other.get(name)}


def test_two_workers_write_the_bytes_of_one(trees, unbroken, tmp_path):
    with start("from openclef.cli import main; main()", "ingest", trees["bids"], tmp_path / "c",
               "--workers", 2) as process:  # fmt: skip
        _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert differences(files_of(tmp_path / "c"), unbroken) == set()


@pytest.mark.slow
def test_killed_at_random_moments_and_run_again(trees, unbroken, tmp_path):
    """No file differs, none is left over; a finished cohort is compared and begun anew.

    OPENCLEF_KILLS: how often; results/ has a run of 20.
    """
    most_kills = int(os.environ.get("OPENCLEF_KILLS", "3"))
    moment = random.Random(7)
    n_kills, n_finished, lasts_s = 0, 0, None
    out = tmp_path / "cohort"
    while n_kills < most_kills or out.exists():
        with start(READY, "ingest", trees["bids"], out, "--workers", 2) as process:
            assert process.stdout.readline() == "ready\n"
            started = time.monotonic()
            if lasts_s is not None and n_kills < most_kills:
                time.sleep(moment.uniform(0, lasts_s))
                if process.poll() is None:
                    os.kill(process.pid, signal.SIGKILL)
                    n_kills += 1
            _, errors = process.communicate()
        if process.returncode == 0:
            lasts_s = lasts_s or time.monotonic() - started
            assert differences(files_of(out), unbroken) == set()
            n_finished += 1
            shutil.rmtree(out)
        else:
            assert process.returncode == -signal.SIGKILL, errors
    assert n_finished >= 2


def test_ctrl_c_ends_all_quietly_and_the_command_goes_on(trees, unbroken, tmp_path):
    """A terminal sends it to every process: the workers' own tracebacks would follow."""
    out = tmp_path / "cohort"
    command = ("ingest", trees["bids"], out, "--workers", 2)
    with start(READY, *command, start_new_session=True) as process:
        while not list(out.glob("parts/*.json")):
            assert process.poll() is None
            time.sleep(0.001)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate()
    assert process.returncode == 130
    assert "interrupted; the same command goes on from here" in errors
    assert "Traceback" not in errors
    read(trees["bids"], out)
    assert differences(files_of(out), unbroken) == set()


@pytest.mark.slow
def test_a_disk_that_is_full_in_any_phase_is_told_and_the_command_goes_on(
    trees, unbroken, tmp_path
):
    out = tmp_path / "cohort"
    for phase, (name, limit) in PHASES.items():
        code = FULL.format(name=name, limit=limit)
        with start(code, "ingest", trees["bids"], out, "--workers", 1) as process:
            output, errors = process.communicate()
        assert process.returncode == 2, (phase, output, errors)
        (told,) = (line for line in errors.splitlines() if line.startswith("openclef: error: "))
        assert "cannot be written" in told, phase
        assert "Traceback" not in errors
        assert not [path for path in out.rglob("*") if path.name.endswith((".tmp", ".partial"))]
        assert not (out / "manifest.json").exists()
    read(trees["bids"], out)
    assert differences(files_of(out), unbroken) == set()


# Ray leaves its log files to the interpreter's end, and says so in two ways.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_ray_cluster_of_two_nodes_writes_the_bytes_of_one_process(
    trees, unbroken, tmp_path, monkeypatch
):
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    node = {"num_cpus": 1, "include_dashboard": False}
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args=node)
    try:
        cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        monkeypatch.chdir(trees["bids"].parent)  # workers start elsewhere
        engine = RayEngine(n_workers=1, address=cluster.address)
        read(trees["bids"].relative_to(trees["bids"].parent), tmp_path / "cohort", engine=engine)
    finally:
        cluster.shutdown()
    assert differences(files_of(tmp_path / "cohort"), unbroken) == set()
