"""Ctrl-C: the first one stops after the running step and saves, the second one stops at once."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stopped(BaseException):
    """The user stopped the run; not an ``Exception``, so that neither Hydra nor a sweep counts it as a failed job."""


class StopRequest:
    """The state of Ctrl-C, which a training reads where it can stop safely.

    While ``deferred`` is True, the first Ctrl-C only sets ``requested``. Otherwise, and on the second Ctrl-C,
    :meth:`handle` raises ``Stopped``.

    Attributes:
        requested: Ctrl-C was pressed, and the training has to stop after the running step.
        deferred: a training is running that checks ``requested``.
    """

    def __init__(self) -> None:
        self.requested = False
        self.deferred = False

    def handle(self, signum: int, frame: FrameType | None) -> None:
        """Handle SIGINT."""
        if not self.deferred or self.requested:
            raise Stopped
        self.requested = True
        print("\nStopping after this step; press Ctrl-C again to stop at once.", file=sys.stderr, flush=True)


@contextmanager
def stop_on_interrupt() -> Iterator[StopRequest]:
    """Handle SIGINT by a ``StopRequest`` inside the ``with`` block."""
    request = StopRequest()
    try:
        previous = signal.signal(signal.SIGINT, request.handle)
    except ValueError:
        # Python delivers SIGINT to the main thread only; a thread-based launcher runs jobs in others.
        yield request
        return
    try:
        yield request
    finally:
        signal.signal(signal.SIGINT, previous)
