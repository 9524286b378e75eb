"""SIGTERM and SIGUSR1 (Slurm's notice, if asked for): the step is ended and saved first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Stopped(SystemExit):
    """A run that was told to stop and has saved its state; as a shell tells it, 128 + signal."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)


class Request:
    """The signal that this process was sent, if any."""

    number: int | None = None

    def _take(self, number: int, _: FrameType | None) -> None:
        self.number = number

    def stopped(self) -> Stopped:
        """What to raise once the state is saved; another process may be the one that was told."""
        number, self.number = self.number or signal.SIGTERM, None
        return Stopped(number)


@contextmanager
def deferred() -> Iterator[Request]:
    """Within, the two signals are only noted; one that nothing came of is sent again at the end.

    Outside of the main thread, where Python handles no signals, nothing is changed.
    """
    request = Request()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, request._take) for number in _SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if request.number is not None:
        signal.raise_signal(request.number)
