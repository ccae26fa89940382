"""Ctrl-C and SIGTERM: the first one stops after the running step and saves, the second one stops at once."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(BaseException):
    """The user stopped the run; not an ``Exception``, so that neither Hydra nor a sweep counts it as a failed job.

    Args:
        signum: number of the signal that stopped it.
    """

    def __init__(self, signum: int = signal.SIGINT) -> None:
        super().__init__(signum)
        self.signum = signum


class StopRequest:
    """The state of Ctrl-C and SIGTERM, which a training reads where it can stop safely.

    While ``deferred`` is True, the first signal only sets ``requested``. Otherwise, and on the second signal,
    :meth:`handle` raises ``Stopped``.

    Attributes:
        requested: a signal arrived, and the training has to stop after the running step.
        deferred: a training is running that checks ``requested``.
        signum: number of the signal that arrived.
    """

    def __init__(self) -> None:
        self.requested = False
        self.deferred = False
        self.signum: int = signal.SIGINT

    def handle(self, signum: int, frame: FrameType | None) -> None:
        """Handle SIGINT or SIGTERM."""
        self.signum = signum
        if not self.deferred or self.requested:
            raise Stopped(signum)
        self.requested = True
        print("\nStopping after this step; press Ctrl-C again to stop at once.", file=sys.stderr, flush=True)

    def stop(self) -> NoReturn:
        """Stop the training, where it has saved a checkpoint.

        Raises:
            Stopped: always.
        """
        raise Stopped(self.signum)


@contextmanager
def stop_on_interrupt() -> Iterator[StopRequest]:
    """Handle SIGINT and SIGTERM by a ``StopRequest`` inside the ``with`` block."""
    request = StopRequest()
    try:
        previous = [signal.signal(signum, request.handle) for signum in SIGNALS]
    except ValueError:
        # Python delivers signals to the main thread only; a thread-based launcher runs jobs in others.
        yield request
        return
    try:
        yield request
    finally:
        for signum, handler in zip(SIGNALS, previous, strict=True):
            signal.signal(signum, handler)
