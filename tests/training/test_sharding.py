"""Two processes under torchrun, on the CPU, with their shards, train as one does."""

import shutil
from pathlib import Path

import pytest
import torch
import toys
from torch.distributed.fsdp import FSDPModule

from openclef import artefact
from openclef.errors import OpenclefError
from openclef.training import distributed, sharding

SCRIPT = Path(__file__).with_name("two_shards.py")


@pytest.fixture(scope="module")
def two(tmp_path_factory, run_two_processes):
    """Folder in which two processes have run."""
    out = tmp_path_factory.mktemp("two")
    run_two_processes(SCRIPT, out)
    return out


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """`SmallTransformer` by one process: (folder, best weights)."""
    folder = tmp_path_factory.mktemp("one") / "transformer"
    return folder, toys.run(folder, objective=toys.SmallTransformer())[1]


@pytest.mark.parametrize("name", ["shards", "parts", "told"])
def test_shards_and_parts_of_two_give_the_losses_of_one(two, one, name):
    """`told` was told to stop, and went on; all by the global norm of the gradient."""
    toys.assert_same_rows(toys.metrics(two / name), toys.metrics(one[0]))


@pytest.mark.parametrize("name", ["shards", "shards_resumed", "line", "skipped", "parts"])
def test_both_processes_end_with_the_same_bits(two, name):
    first, second = toys.kept(two, name)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", ["shards", "parts"])
def test_shards_and_parts_of_two_come_to_the_weights_of_one(two, one, name):
    toys.assert_close(toys.kept(two, name)[0], one[1])


def test_each_of_two_holds_half_of_the_shards(two, one):
    first, second = toys.kept(two, "local")
    whole = {name: one[1][name] for name in first}
    for name, value in whole.items():
        assert first[name].numel() + second[name].numel() == value.numel()
    assert sum(x.numel() for x in first.values()) < 0.7 * sum(x.numel() for x in whole.values())


def test_shards_of_an_objective_with_groups_masks_and_rare_parts(two, tmp_path):
    """Some shards are empty, and gradients are clipped by the norm of each group."""
    stage, weights = toys.run(tmp_path / "line", **toys.line_of_shards(toys.CONFIG))
    assert all("grad_norm_2" in row for row in toys.rows(stage, "train"))
    toys.assert_same_rows(toys.metrics(two / "line"), toys.rows(stage))
    toys.assert_close(toys.kept(two, "line")[0], weights)


def test_a_broken_item_of_one_is_left_out_by_both_with_their_shards(two, tmp_path):
    stage, weights = toys.run(
        tmp_path / "a", load=toys.load_with_a_nan, **toys.line_of_shards(toys.CONFIG)
    )
    skipped = artefact.Artefact(two / "skipped", "toy", {}, {})
    theirs = toys.rows(stage, "skipped")
    assert theirs
    assert toys.rows(skipped, "skipped") == theirs
    toys.assert_same_rows(toys.metrics(two / "skipped"), toys.rows(stage))
    toys.assert_close(toys.kept(two, "skipped")[0], weights)


def test_one_of_two_is_told_to_stop_and_both_save_the_same_step(two):
    assert [int(x["code"]) for x in toys.kept(two, "told")] == [143, 143]
    (saved,) = (two / "told_two" / "checkpoints").iterdir()
    assert saved.name.startswith("step-")
    shards = {path.name for path in saved.glob("*.distcp")}
    assert shards == {"__0_0.distcp", "__1_0.distcp"}


def test_two_told_to_stop_and_resumed_are_the_same_bit_for_bit(two):
    whole, resumed = toys.kept(two, "shards")[0], toys.kept(two, "shards_resumed")[0]
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    assert toys.metrics(two / "shards") == toys.metrics(two / "told")


def test_shards_that_two_saved_load_on_one(two, one, tmp_path):
    """The same weights, moments and average: what it comes to is what one process comes to."""
    folder = shutil.copytree(two / "told_two", tmp_path / "told")
    stage, weights = toys.run(folder, objective=toys.SmallTransformer(), config=toys.SHARDED)
    toys.assert_same_rows(toys.rows(stage), toys.metrics(one[0]))
    toys.assert_close(weights, one[1])
    starts = [(row["n_processes"], row["step"] > 0) for row in toys.rows(stage, "run")]
    assert starts == [(2, False), (1, True)]


def test_shards_loaded_on_one_are_the_bits_that_two_saved(two, tmp_path):
    """A run that had ended is loaded by one process and only gives back its best weights."""
    folder = shutil.copytree(two / "shards", tmp_path / "shards")

    def never(*_):
        raise AssertionError("nothing is left to train")

    _, weights = toys.run(
        folder, objective=toys.SmallTransformer(), config=toys.SHARDED, load=never
    )
    theirs = toys.kept(two, "shards")[0]
    assert weights.keys() == theirs.keys()
    assert all(torch.equal(weights[key], theirs[key]) for key in theirs)


def test_a_torch_that_cannot_is_told_before_anything_is_divided(monkeypatch):
    monkeypatch.delattr(FSDPModule, "set_reduce_scatter_unused_params")
    monkeypatch.setattr(torch, "__version__", "2.6.0")
    objective, cpu = toys.SmallTransformer(), torch.device("cpu")
    sharding.shard(objective, cpu)  # one process needs nothing of it

    def never(_):
        raise AssertionError("nothing is begun")

    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "all_in_one_row", never)
    with pytest.raises(OpenclefError, match=r"needs torch>=2\.13, 2\.6\.0 is installed"):
        sharding.shard(objective, cpu)
    assert not sharding.is_sharded(objective)
