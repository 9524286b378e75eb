"""Where the work of an ingest is done: processes of this machine, or a Ray cluster.

Both give `(item, result)` pairs as they come, in any order, with a bounded number at work, so that
neither memory nor the queue grows with the archive. What an item writes does not depend on where
it ran.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, Self, TypeVar

from openclef.errors import OpenclefError
from openclef.workers import worker_pool

Item = TypeVar("Item")
_ANSWER_S = 10.0
_AHEAD = 3  # items given out per worker, so that none waits for the next


@dataclass(frozen=True)
class WorkerDied:
    """In place of a result: the process that worked on the item ended, twice."""


class Engine(Protocol):
    """Runs a picklable function over items, inside a `with` block.

    The function reads and writes a file system that all its workers share.
    """

    def __enter__(self) -> Self: ...

    def __exit__(self, *raised: object) -> None: ...

    def map(
        self, function: Callable[[Item], Any], items: Iterable[Item]
    ) -> Iterator[tuple[Item, Any]]: ...


class LocalEngine:
    """Processes of this machine, one thread each, started when first needed.

    A file that crashes its reader must not end the others' work: what was at work when a process
    died is tried again, each item alone; one that kills its process again is given `WorkerDied`.
    """

    def __init__(self, *, n_workers: int) -> None:
        self.n_workers = n_workers
        self._open = ExitStack()
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        if self._pool is not None and raised[0] is not None:
            # The interpreter's end would wait for it too, and now and then meets it half closed.
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._stop()

    def _stop(self) -> None:
        self._pool = None
        self._open.close()

    def _submit(self, function: Callable[[Item], Any], item: Item) -> Future[Any]:
        if self._pool is None:
            self._pool = self._open.enter_context(worker_pool(self.n_workers))
        try:
            return self._pool.submit(function, item)
        except BrokenProcessPool as error:
            # Broken by an item given out before: told by a future, as that one's is.
            failed: Future[Any] = Future()
            failed.set_exception(error)
            return failed

    def map(
        self, function: Callable[[Item], Any], items: Iterable[Item]
    ) -> Iterator[tuple[Item, Any]]:
        left = iter(items)
        at_work: dict[Future[Any], Item] = {}
        while True:
            try:
                for item in islice(left, _AHEAD * self.n_workers - len(at_work)):
                    at_work[self._submit(function, item)] = item
                if not at_work:
                    return
                done, _ = wait(at_work, return_when=FIRST_COMPLETED)
                for future in done:
                    result = future.result()
                    yield at_work.pop(future), result
            except BrokenProcessPool:
                self._stop()
                suspects, at_work = list(at_work.values()), {}
                yield from self._one_by_one(function, suspects)

    @staticmethod
    def _one_by_one(
        function: Callable[[Item], Any], items: Iterable[Item]
    ) -> Iterator[tuple[Item, Any]]:
        waiting = deque(items)
        while waiting:
            with worker_pool(1) as pool:
                result: Any = None
                while waiting and not isinstance(result, WorkerDied):
                    item = waiting.popleft()
                    try:
                        result = pool.submit(function, item).result()
                    except BrokenProcessPool:
                        result = WorkerDied()
                    yield item, result


class RayEngine:
    """A Ray cluster, whose machines see the same file system under the same paths.

    address: of a running cluster ("auto" finds this machine's); None starts a local one with
    `n_workers` processes. A cluster that this process is connected to already is used, and left
    open. Needs the extra `cluster`.
    """

    def __init__(self, *, n_workers: int, address: str | None = None) -> None:
        self.n_workers = n_workers
        self.address = address
        self._is_ours = False

    def __enter__(self) -> Self:
        try:
            import ray
        except ImportError as error:
            raise OpenclefError(
                "--engine ray needs Ray: pip install 'openclef[cluster]'; or take --engine local"
            ) from error
        self._ray = ray
        if ray.is_initialized():
            return self
        # Nothing leaves the machine: a cluster of ours reports no usage to Ray's makers.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        where: dict[str, Any] = {"num_cpus": self.n_workers, "include_dashboard": False}
        if self.address is not None:
            where = {"address": self.address}
        try:
            self._knock()
            # What workers print may name files: it stays with them.
            ray.init(**where, log_to_driver=False, configure_logging=False)
        except OSError as error:  # a ConnectionError, or a name that is no host's
            raise OpenclefError(
                f"--address {self.address}: no Ray cluster answers there; start one with 'ray "
                "start --head', or leave --address out for a local one"
            ) from error
        self._is_ours = True
        return self

    def _knock(self) -> None:
        """Ray itself would try an address at which nobody is for over a minute."""
        host, _, port = (self.address or "").removeprefix("ray://").rpartition(":")
        if host and port.isdecimal():
            socket.create_connection((host, int(port)), timeout=_ANSWER_S).close()

    def __exit__(self, *raised: object) -> None:
        if self._is_ours:
            self._ray.shutdown()
            self._is_ours = False

    def map(
        self, function: Callable[[Item], Any], items: Iterable[Item]
    ) -> Iterator[tuple[Item, Any]]:
        ray = self._ray
        remote = ray.remote(num_cpus=1, max_retries=1)(function)
        n_ahead = _AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))
        left = iter(items)
        at_work: dict[Any, Item] = {}
        died = (
            ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError,
            ray.exceptions.NodeDiedError,
        )  # fmt: skip
        try:
            while True:
                for item in islice(left, n_ahead - len(at_work)):
                    at_work[remote.remote(item)] = item
                if not at_work:
                    return
                done, _ = ray.wait(list(at_work), num_returns=1)
                for reference in done:
                    try:
                        result = ray.get(reference)
                    except died:
                        result = WorkerDied()
                    except ray.exceptions.RayTaskError as error:
                        raise error.cause from None
                    yield at_work.pop(reference), result
        finally:
            # A cluster that others use goes on when we stop early.
            for reference in at_work:
                ray.cancel(reference)
