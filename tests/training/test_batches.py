import threading
import time

import numpy as np
import pytest

from openclef.training.batches import epoch_order, item_rngs, load_ahead, torch_seed


def test_every_item_comes_once_an_epoch():
    batches = list(epoch_order(10, n_steps=4, batch_size=5, seed=3))
    assert sorted(np.concatenate(batches[:2])) == list(range(10))
    assert sorted(np.concatenate(batches[2:])) == list(range(10))
    assert not np.array_equal(batches[0], batches[2])


def test_an_incomplete_batch_is_left_out():
    batches = list(epoch_order(7, n_steps=4, batch_size=3, seed=0))
    for epoch in (batches[:2], batches[2:]):
        assert len(set(np.concatenate(epoch))) == 6


def test_a_batch_larger_than_the_data_is_the_data():
    assert [len(b) for b in epoch_order(3, n_steps=2, batch_size=8, seed=0)] == [3, 3]


def test_seeds_differ_in_every_place():
    places = [(seed, s, step, r) for seed in range(3) for s in range(1, 5) for step in range(3)
              for r in range(2)]  # fmt: skip
    assert len({torch_seed(*place) for place in places}) == len(places)
    draws = [rng.random() for step in range(5) for rng in item_rngs(0, step, range(8))]
    assert len(set(draws)) == 40


def test_batches_come_in_order_and_only_so_far_ahead():
    started = []

    def load(i):
        started.append(i)
        return i

    taken = []
    for value in load_ahead((lambda i=i: load(i) for i in range(12)), n_ahead=3):
        taken.append(value)
        time.sleep(0.005)
        assert len(started) <= len(taken) + 3
    assert taken == started == list(range(12))


def test_batches_are_loaded_while_another_is_worked_on():
    third = threading.Event()
    loads = [lambda: 0, lambda: 1, third.set, lambda: 3]
    batches = load_ahead(loads, n_ahead=2)
    next(batches)
    assert third.wait(timeout=10)
    batches.close()


def test_an_error_of_the_loader_arrives_in_its_place():
    def fail():
        raise OSError("gone")

    batches = load_ahead([lambda: 0, fail, lambda: 2])
    assert next(batches) == 0
    with pytest.raises(OSError, match="gone"):
        next(batches)


def test_nothing_more_is_loaded_once_closed():
    started = []
    gate = threading.Event()

    def slow(i):
        started.append(i)
        gate.wait(timeout=10)

    batches = load_ahead([lambda: 0, *(lambda i=i: slow(i) for i in (1, 2, 3))])
    next(batches)
    threading.Timer(0.05, gate.set).start()
    batches.close()
    assert 3 not in started
