"""Measure CPU time of alternating contenders in one process, and peak memory (RSS) in a process each.

Wall-clock time is unreliable on a shared machine. So contenders alternate in one process on one thread, each turn is
timed by its CPU time, and the result is the median over the rounds of one contender's time divided by another's in
the same round.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from random import Random
from typing import Any

from rich.console import Console

OUT_HELP = "JSON file of the results (default: in benchmarks/results)"
RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "lightning", "torchmetrics", "numpy", "lightning-dynprune")


def use_one_thread() -> None:
    """Limit torch to one thread, so that CPU time contains no waiting."""
    import torch

    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)


def cpu_seconds(call: Callable[[], Any]) -> float:
    """Return the CPU seconds of ``call``."""
    started = time.process_time_ns()
    call()
    return (time.process_time_ns() - started) / 1e9


def interleaved(turns: dict[str, Callable[[], float]], rounds: int, warmup: int = 1) -> dict[str, list[float]]:
    """Time every contender once in each round, in a seeded random order.

    No contender runs twice in a row, because its data would still be in the caches.

    Args:
        turns: contender -> a function that prepares and runs one turn, and returns its seconds.
        rounds: number of measured rounds.
        warmup: number of discarded rounds before them.

    Returns:
        Contender -> seconds of each round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    random, order = Random(0), list(turns)
    for number in range(-warmup, rounds):
        last = order[-1]
        random.shuffle(order)
        if order[0] == last:
            order[0], order[-1] = order[-1], order[0]
        for name in order:
            taken = turns[name]()
            if number >= 0:
                seconds[name].append(taken)
    return seconds


def added_up(values: Sequence[float], count: int) -> list[float]:
    """Return the sums of consecutive groups of ``count`` values."""
    return [sum(values[start : start + count]) for start in range(0, len(values), count)]


def summary(values: Sequence[float]) -> dict[str, float]:
    """Return median and quartiles of ``values``."""
    if len(values) < 2:
        low = middle = high = values[0]
    else:
        low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": middle, "q1": low, "q3": high}


def ratio_summary(seconds: Sequence[float], base: Sequence[float]) -> dict[str, float]:
    """Return median and quartiles of the ratios of two contenders, round by round."""
    return summary([ours / theirs for ours, theirs in zip(seconds, base, strict=True)])


def resident_bytes(field: str = "VmRSS") -> int:
    """Return this process's resident memory now (``VmRSS``) or at its peak (``VmHWM``), in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}: peak memory can be measured on Linux only")


def reset_peak() -> None:
    """Reset the peak of resident memory to the current value."""
    Path("/proc/self/clear_refs").write_text("5")


def in_own_process(script: str, *arguments: str) -> dict[str, Any]:
    """Run a benchmark script in a fresh process on one thread and return the JSON of its last line."""
    done = subprocess.run(
        [sys.executable, script, *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    if done.returncode:
        raise RuntimeError(f"{script} {' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def console() -> Console:
    """Return a console that is wide enough for the tables, even if the output is a file."""
    return Console(width=max(Console().width, 120))


def environment() -> dict[str, Any]:
    """Return the machine and the versions of the packages."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "processor": _processor(),
        "logical_cpus": os.cpu_count(),
        "threads": 1,
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
    }


def write(path: Path, **content: Any) -> None:
    """Write figures and the measuring environment as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"environment": environment(), **content}, indent=1) + "\n")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
