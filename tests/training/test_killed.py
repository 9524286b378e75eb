"""Runs that are killed or told to stop go on as if nothing had been."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import test_loop
import toys

from openclef.errors import ArtefactError
from openclef.training import signals

SCRIPT = Path(__file__).with_name("killed.py")
SHARDED = test_loop.with_changes(sharding="full")


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Folder of runs that were killed, by name."""
    out = tmp_path_factory.mktemp("killed")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(out)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return test_loop.run(tmp_path_factory.mktemp("whole"))


def saved(folder):
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def test_killed_while_saving_and_resumed_is_the_same_bit_for_bit(killed, whole):
    folder = killed / "saving"
    assert len(saved(folder)) == 2  # the first checkpoint, and half of another
    toys.assert_same(test_loop.run(folder), whole)
    assert saved(folder) == ["last.safetensors"]


def test_killed_while_saving_shards_and_resumed_is_the_same_bit_for_bit(killed, whole):
    folder = killed / "saving_shards"
    assert saved(folder) == ["step-000000007", "step-000000014.unfinished"]
    toys.assert_same(test_loop.run(folder, config=SHARDED), whole)
    assert saved(folder) == ["step-000000030"]


def test_killed_in_mid_epoch_and_resumed_is_the_same_bit_for_bit(killed, whole):
    """Epochs have five steps; what is resumed is the state of step 7."""
    resumed = test_loop.run(killed / "training")
    toys.assert_same(resumed, whole)
    assert [row["step"] for row in toys.rows(resumed[0], "run")] == [0, 7]


@pytest.mark.parametrize("config", [test_loop.CONFIG, SHARDED], ids=["file", "shards"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_told_to_stop_it_ends_the_step_saves_and_says_so(tmp_path, whole, capsys, number, config):
    before = signal.getsignal(number)

    def tell():
        os.kill(os.getpid(), number)

    with pytest.raises(signals.Stopped) as stopped:
        test_loop.run(tmp_path, config=config, stop_at=12, at_stop=tell)
    assert stopped.value.code == 128 + number
    assert signal.getsignal(number) is before
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("toy: told")]
    assert "of 30; the same command goes on from here" in line
    resumed = test_loop.run(tmp_path, config=config)
    toys.assert_same(resumed, whole)
    start = toys.rows(resumed[0], "run")[-1]["step"]
    assert f"saved after step {start} " in line
    assert start not in (7, 14, 21)  # a checkpoint of its own


def test_a_signal_that_came_too_late_is_sent_again_at_the_end():
    seen = []
    before = signal.signal(signal.SIGTERM, lambda number, _: seen.append(number))
    try:
        with signals.deferred() as request:
            signal.raise_signal(signal.SIGTERM)
            assert request.number == signal.SIGTERM
            assert not seen
        assert seen == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_outside_of_the_main_thread_signals_are_left_alone():
    seen = []

    def work():
        with signals.deferred() as request:
            seen.append((signal.getsignal(signal.SIGTERM), request.number))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(signal.getsignal(signal.SIGTERM), None)]


@pytest.mark.parametrize("broken", [".metadata", "__0_0.distcp", "notes.json"])
def test_a_broken_checkpoint_of_shards_is_one_clear_error(tmp_path, broken):
    config = toys.changed(SHARDED, n_steps=3)
    test_loop.run(tmp_path, config=config)
    (path,) = (tmp_path / "checkpoints").iterdir()
    (path / broken).write_bytes(b"")
    with pytest.raises(ArtefactError, match=r"step-000000003: cannot be read as a checkpoint"):
        test_loop.run(tmp_path, config=config)
