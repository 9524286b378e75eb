"""Worker processes that read and make recordings: one thread each, gone when their parent is."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import wait

_THREAD_VARIABLES = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS",
    "BLOSC_NTHREADS", "ZARR_THREADING__MAX_WORKERS", "ZARR_ASYNC__CONCURRENCY",
)  # fmt: skip


@contextmanager
def worker_pool(n_workers: int) -> Iterator[ProcessPoolExecutor]:
    """A pool of fresh processes, even with one worker: one code path gives the same bytes.

    Spawned, not forked, because threads of numerical libraries do not survive a fork; so scripts
    that reach this need an `if __name__ == "__main__"` guard.
    """
    before = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, "1"))
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(n_workers, context, initializer=_follow_parent) as pool:
            yield pool
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _follow_parent() -> None:
    """Stop when the parent says so, or is gone, and not otherwise.

    Ctrl-C reaches every process of a terminal: the parent alone answers it. Idle workers would
    wait for ever after a `kill -9` of the parent: watch it, and leave.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
