"""The process that runs a sweep, as its jobs in other processes know it: by the environment that they inherit."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import dataclass

VARIABLE = "DYNPRUNE_SWEEP"
_PERIOD = 0.2  # seconds between two looks


@dataclass(frozen=True)
class SweepingProcess:
    """The process that a sweep was started by, and where the sweep stood then.

    Args:
        pid: number of the process.
        began: seconds since the epoch when the sweep was started or continued.
        done: number of jobs that were finished by then.
    """

    pid: int
    began: float
    done: int

    def announce(self) -> None:
        """Set the environment variable by which worker processes find this."""
        os.environ[VARIABLE] = f"{self.pid} {self.began} {self.done}"

    @classmethod
    def found(cls) -> SweepingProcess | None:
        """Return what the environment says; None outside a sweep.

        Example:
            >>> SweepingProcess(7, 100.0, 2).announce()
            >>> SweepingProcess.found()
            SweepingProcess(pid=7, began=100.0, done=2)
            >>> del os.environ[VARIABLE]
        """
        parts = os.environ.get(VARIABLE, "").split()
        try:
            pid, began, done = parts
            return cls(int(pid), float(began), int(done))
        except ValueError:
            return None


_watching = threading.Event()  # set once this process watches the one that started it


def stop_with_sweep() -> None:
    """Let this process save and stop, as by SIGTERM, once the process that runs the sweep and started it has ended.

    A launcher's worker would otherwise go on after the sweep was killed, and hold the folder of its job when the same
    command continues the sweep. Workers on other machines, which the process did not start itself, are left alone.
    """
    sweep = SweepingProcess.found()
    if sweep is None or sweep.pid == os.getpid():
        return
    if os.getppid() != sweep.pid:
        if _watching.is_set():
            # The job before this one has saved and stopped; nobody waits for what the worker would do next.
            os._exit(1)
        return
    if not _watching.is_set():
        _watching.set()
        threading.Thread(target=_watch, args=(sweep.pid,), name=VARIABLE, daemon=True).start()


def _watch(pid: int) -> None:
    while os.getppid() == pid:
        time.sleep(_PERIOD)
    os.kill(os.getpid(), signal.SIGTERM)
