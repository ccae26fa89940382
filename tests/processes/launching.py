"""Starts a case of the script, once for all tests that look at what it leaves."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

ROOT = Path(__file__).parents[2]
SECONDS = 600  # a case takes ten on a quiet machine; gloo waits 1800 for a lost process
TIMED_OUT = -1


def launch(case: str, folder: Path) -> tuple[int, str]:
    """Run a case to its end, and all processes with it; return its exit code and what it printed."""
    folder.mkdir(parents=True, exist_ok=True)
    env = {k: v for k, v in os.environ.items() if k not in ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_PORT")}
    log = folder / f"{case}.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.processes.script", case, os.fspath(folder)],
            cwd=ROOT,
            env={**env, "OMP_NUM_THREADS": "1"},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            code = TIMED_OUT
            output.write(f"{case} has not ended in {SECONDS} s")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return code, log.read_text()


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
                code, _ = launch(case, folder)
                ended.write_text(str(code))
            assert ended.read_text() == "0", (folder / f"{case}.log").read_text()[-6000:]
    return folder


def ends(folder: Path, name: str) -> list[dict[str, Any]]:
    """Return what each process ended a training with, in the order of their ranks."""
    files = sorted(folder.glob(f"{name}-[0-9].pt"))
    return [torch.load(file, weights_only=True) for file in files]
