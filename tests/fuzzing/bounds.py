"""How much memory and time a reader may take."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

MEMORY = 2**28  # bytes more than the process has; the files are of some kilobytes
SECONDS = 20


class TooSlow(BaseException):
    """A reader took longer than it may; no reader catches it."""


@contextmanager
def bounded(memory: int = MEMORY, seconds: int = SECONDS) -> Iterator[None]:
    """Let allocations beyond ``memory`` bytes fail, and raise :class:`TooSlow` after ``seconds`` of CPU time."""

    def late(number: int, frame: FrameType | None) -> None:
        raise TooSlow(f"a reader took more than {seconds} s of CPU time")

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + memory, hard))
    previous = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, previous)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
