"""Starts a case of the script, once for all tests that look at what it leaves."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

from tests.app.program import started

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("script.py")
SECONDS = 600  # a case takes ten on a quiet machine; gloo waits 1800 for a lost process
TIMED_OUT = -1


def launch(case: str, folder: Path) -> tuple[int, str]:
    """Run a case to its end, and all processes with it; return its exit code and what it printed."""
    folder.mkdir(parents=True, exist_ok=True)
    process = started(case, os.fspath(folder), folder=ROOT, program=SCRIPT)
    overdue = threading.Event()

    def stop() -> None:
        overdue.set()
        os.killpg(process.pid, signal.SIGKILL)

    timer = threading.Timer(SECONDS, stop)
    timer.start()
    try:
        done = process.end()
    finally:
        timer.cancel()
    printed = done.stdout + done.stderr
    if overdue.is_set():
        return TIMED_OUT, f"{printed}{case} has not ended in {SECONDS} s"
    return done.returncode, printed


def launched(factory: pytest.TempPathFactory, *cases: str) -> Path:
    """Run cases one after the other unless a test has done so, here or in another worker of pytest-xdist.

    Returns:
        The folder with what they leave; ``*.log`` is what they printed.
    """
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "-".join(cases)
    with FileLock(f"{folder}.lock"):
        for case in cases:
            ended = folder / f"{case}.code"
            if not ended.exists():
                code, printed = launch(case, folder)
                (folder / f"{case}.log").write_text(printed)
                ended.write_text(str(code))
            assert ended.read_text() == "0", (folder / f"{case}.log").read_text()[-6000:]
    return folder


def ends(folder: Path, name: str) -> list[dict[str, Any]]:
    """Return what each process ended a training with, in the order of their ranks."""
    files = sorted(folder.glob(f"{name}-[0-9].pt"))
    return [torch.load(file, weights_only=True) for file in files]
