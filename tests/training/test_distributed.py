"""Two processes under torchrun, on the CPU, train as one does."""

from pathlib import Path

import pytest
import torch
import toys

from openclef.training import distributed

SCRIPT = Path(__file__).with_name("two_processes.py")


@pytest.fixture(scope="module")
def two(tmp_path_factory, run_two_processes):
    """Folder in which two processes have run; `from_one` was begun by one."""
    out = tmp_path_factory.mktemp("two")
    with pytest.raises(KeyboardInterrupt):
        toys.run(out / "from_one", stop_at=9)
    stderr = run_two_processes(SCRIPT, out)
    assert stderr.count("no files for TensorBoard") <= 1
    return out


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The same run by one process: (folder, best weights, last weights)."""
    model = toys.MaskedLine()
    folder = tmp_path_factory.mktemp("one") / "whole"
    _, weights = toys.run(folder, objective=model)
    return folder, weights, model.state_dict()


def test_two_processes_log_the_losses_of_one(two, one):
    ours = toys.metrics(two / "whole")
    assert len([row for row in ours if row["split"] == "train"]) == 20
    toys.assert_same_rows(ours, toys.metrics(one[0]))


def test_two_processes_come_to_the_weights_of_one(two, one):
    _, best, last = one
    toys.assert_close(toys.kept(two, "best")[0], best)
    toys.assert_close(toys.kept(two, "last")[0], last)


@pytest.mark.parametrize(
    "name",
    ["best", "last", "resumed", "from_one", "few"],
)
def test_both_processes_hold_the_same_bits(two, name):
    first, second = toys.kept(two, name)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_two_processes_resumed_are_the_same_bit_for_bit(two):
    whole, resumed = toys.kept(two, "best")[0], toys.kept(two, "resumed")[0]
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    assert toys.metrics(two / "whole") == toys.metrics(two / "broken")


def test_two_go_on_where_one_was_interrupted(two, one):
    toys.assert_same_rows(toys.metrics(two / "from_one"), toys.metrics(one[0]))
    toys.assert_close(toys.kept(two, "from_one")[0], one[1])


def test_one_goes_on_where_two_were_interrupted(two, one):
    stage, weights = toys.run(two / "from_two")
    toys.assert_same_rows(toys.rows(stage), toys.metrics(one[0]))
    toys.assert_close(weights, one[1])
    starts = toys.rows(stage, "run")
    assert [(row["step"], row["n_processes"]) for row in starts] == [(0, 2), (6, 1)]


def test_fewer_validation_batches_than_processes(two, tmp_path):
    stage, _ = toys.run(tmp_path / "few", config=toys.SHORT, validation=toys.VALIDATION[:1])
    toys.assert_same_rows(toys.metrics(two / "few"), toys.rows(stage))


def test_a_loss_that_is_not_finite_on_one_stops_all(two):
    lines = [(two / f"errors.{rank}.txt").read_text().splitlines() for rank in (0, 1)]
    assert (
        lines[0][0]
        == lines[1][0]
        == ("FloatingPointError: error is nan in training at step 5; steps skipped in a row: 3")
    )


def test_a_batch_that_cannot_be_shared_is_one_clear_error(two):
    for rank in (0, 1):
        error = (two / f"errors.{rank}.txt").read_text().splitlines()[1]
        assert error.startswith("OpenclefError: 2 processes cannot share a batch of 5 equally")
    assert not (two / "odd" / "metrics.jsonl").exists()


def test_dropout_differs_between_processes(two):
    first, second = toys.kept(two, "dropout")[0]["seeds"].tolist()
    assert first != second


def test_without_torchrun_there_is_one_process():
    distributed.start()
    assert (distributed.world_size(), distributed.rank()) == (1, 0)
    assert distributed.gather(7) == [7]
    distributed.stop()
