"""Processes and clusters: what they give back, and what becomes of those that die."""

import os
import signal
import sys
import time

import pytest

from openclef.cohort.engine import LocalEngine, RayEngine, WorkerDied
from openclef.cohort.session import StorageError
from openclef.errors import OpenclefError
from openclef.workers import worker_pool


def double(n):
    return 2 * n


def die_at_3(n):
    if n == 3:
        os._exit(1)
    return n


def crash_at_3(n):
    if n == 3:
        os.kill(os.getpid(), signal.SIGSEGV)
    return n


def die_once(path):
    """Ends its process the first time it is given a path."""
    if path and not path.exists():
        path.touch()
        os._exit(1)
    return path


def full_at_3(n):
    if n == 3:
        raise StorageError("disk: full")
    return n


def wait_for(seconds):
    time.sleep(seconds)
    return os.getpid()


def run(engine, function, items):
    with engine:
        return sorted(engine.map(function, items), key=lambda pair: pair[0])


@pytest.mark.parametrize("n_workers", [1, 2])
def test_every_item_comes_back_once_with_its_result(n_workers):
    assert run(LocalEngine(n_workers=n_workers), double, range(20)) == [
        (n, 2 * n) for n in range(20)
    ]


def test_no_items_start_no_process():
    engine = LocalEngine(n_workers=2)
    assert run(engine, double, []) == []
    assert engine._pool is None


def test_items_are_taken_as_they_are_needed():
    """A quarter of a million jobs are never all in memory."""
    taken = []

    def items():
        for n in range(100):
            taken.append(n)
            yield n

    with LocalEngine(n_workers=1) as engine:
        results = engine.map(double, items())
        next(results)
        assert len(taken) <= 4


@pytest.mark.parametrize("function", [die_at_3, crash_at_3])
@pytest.mark.parametrize("n_workers", [1, 2])
def test_a_worker_that_dies_is_told_and_the_others_work_is_kept(function, n_workers):
    results = dict(run(LocalEngine(n_workers=n_workers), function, range(12)))
    assert results.pop(3) == WorkerDied()
    assert results == {n: n for n in range(12) if n != 3}


def test_what_a_lost_process_was_given_is_tried_again(tmp_path):
    """Out of memory beside a large neighbour, say, and not on its own."""
    flag = tmp_path / "died"
    with LocalEngine(n_workers=2) as engine:
        assert list(engine.map(die_once, [flag])) == [(flag, flag)]


def test_a_pool_found_broken_on_giving_out_loses_no_item():
    with LocalEngine(n_workers=1) as engine:
        (pid,) = (result for _, result in engine.map(wait_for, [0]))
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while not engine._pool._broken and time.monotonic() < deadline:
            time.sleep(0.01)
        assert engine._pool._broken
        assert sorted(engine.map(double, range(5))) == [(n, 2 * n) for n in range(5)]


def test_an_error_for_the_user_ends_the_map_as_it_is():
    with LocalEngine(n_workers=2) as engine, pytest.raises(StorageError, match=r"^disk: full$"):
        list(engine.map(full_at_3, range(50)))


def test_an_error_of_ours_stops_what_waits():
    def stop_at_once(engine):
        with engine:
            for _ in engine.map(wait_for, [0.1, *[2.0] * 50]):
                raise KeyboardInterrupt

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        stop_at_once(LocalEngine(n_workers=1))
    assert time.monotonic() - started < 20


def test_ctrl_c_is_answered_by_the_parent_alone():
    with worker_pool(1) as pool:
        pid = pool.submit(os.getpid).result()
        os.kill(pid, signal.SIGINT)
        assert pool.submit(os.getpid).result() == pid


def test_workers_have_one_thread_each_and_the_parent_its_own():
    before = os.environ.get("OMP_NUM_THREADS")
    with worker_pool(1) as pool:
        assert pool.submit(os.getenv, "OMP_NUM_THREADS").result() == "1"
    assert os.environ.get("OMP_NUM_THREADS") == before


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "no-such-host.invalid:1"])
def test_a_cluster_that_does_not_answer_is_told_at_once(address):
    with pytest.raises(OpenclefError, match="no Ray cluster answers there"):
        RayEngine(n_workers=1, address=address).__enter__()


def test_ray_that_is_not_installed_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(OpenclefError, match=r"pip install 'openclef\[cluster\]'"):
        RayEngine(n_workers=1).__enter__()
