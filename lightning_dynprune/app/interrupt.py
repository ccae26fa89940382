"""Ctrl-C: the first lets the running step end and be saved, the second stops at once."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stopped(BaseException):
    """The user stopped the run; no error, so neither Hydra nor a sweep may take it for a failed job."""


class StopRequest:
    """Remembers that Ctrl-C was pressed, for whoever can stop at a consistent place.

    While ``deferred`` is set (a training loop runs and will look at ``wanted``) the first Ctrl-C only sets
    ``wanted``; in any other moment, and the second time, it raises ``Stopped`` where the program stands.
    """

    def __init__(self) -> None:
        self.requested = False
        self.deferred = False

    def handle(self, signum: int, frame: FrameType | None) -> None:
        """Signal handler for SIGINT."""
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
        # Not the main thread (a thread-based launcher): Ctrl-C never arrives here.
        yield request
        return
    try:
        yield request
    finally:
        signal.signal(signal.SIGINT, previous)
