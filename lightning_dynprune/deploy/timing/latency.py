"""Time several calls against each other in interleaved rounds.

The speed of a machine varies from moment to moment. Therefore the calls alternate in one process, and a speed-up is the
median over rounds of the ratio inside one round, where both calls met the same conditions.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from typing import Literal

import torch

from lightning_dynprune.base import check_count, check_real

Clock = Literal["wall", "cpu"]

_MIN_ROUNDS, _MAX_ROUNDS = 7, 501
_MIN_SECONDS = 5e-4  # of one timing; reading the clocks takes less than a thousandth of it


@dataclass(frozen=True)
class Latency:
    """Median and quartiles over the rounds of the seconds that one call takes.

    Args:
        median: half of the rounds took less.
        low: a quarter of the rounds took less.
        high: a quarter of the rounds took more.
        rounds: number of rounds measured.
    """

    median: float
    low: float
    high: float
    rounds: int


@dataclass(frozen=True)
class Ratio:
    """Median and quartiles over the rounds of a speed-up: the base's time over the call's own time in the same round.

    Args:
        median: above 1 where the call is faster than the base.
        low: a quarter of the rounds gave less.
        high: a quarter of the rounds gave more.
        rounds: number of rounds measured.
    """

    median: float
    low: float
    high: float
    rounds: int


@dataclass(frozen=True)
class Rounds:
    """Times of each call in each round, by two clocks.

    Args:
        wall: name -> wall-clock seconds a call in each round.
        cpu: name -> seconds of CPU time a call in each round, summed over all threads of the process.
        clock: the clock that ratios use by default: "cpu" where one thread of this process does the work, because other
            processes hardly affect it; "wall" otherwise, because CPU time is then not the time a user waits.
    """

    wall: Mapping[str, Sequence[float]]
    cpu: Mapping[str, Sequence[float]]
    clock: Clock

    def latency(self, name: str, clock: Clock = "wall") -> Latency:
        """Return the seconds that one call of ``name`` takes."""
        seconds = self.wall[name] if clock == "wall" else self.cpu[name]
        return Latency(*_quartiles(seconds), len(seconds))

    def ratio(self, name: str, base: str, clock: Clock | None = None) -> Ratio:
        """Return how many times as fast as ``base`` a call is, by ``clock`` (None: the default clock)."""
        seconds = self.wall if (clock or self.clock) == "wall" else self.cpu
        ratios = [base_seconds / own for own, base_seconds in zip(seconds[name], seconds[base], strict=True)]
        return Ratio(*_quartiles(ratios), len(ratios))


def time_interleaved(
    contenders: Mapping[str, Callable[[], object]],
    *,
    seconds: float = 1.0,
    rounds: int | None = None,
    device: torch.device | str | None = None,
) -> Rounds:
    """Time every call once in each round, in a seeded random order.

    No call runs twice in a row, and each timing starts with a call that is not counted, so that all calls find the
    caches in the state that a model in use finds them in. A timing repeats the call until the clocks resolve it. On an
    accelerator the timing includes waiting for the device at its end, and no wait in between.

    Args:
        contenders: name -> call without arguments.
        seconds: approximate duration of all rounds together; warm-up and a minimum of 7 rounds may exceed it.
        rounds: number of rounds; overrides ``seconds``.
        device: device on which the calls compute; None is the CPU.

    Raises:
        ValueError: ``contenders`` is empty, or ``seconds`` or ``rounds`` is not above zero.
    """
    if not contenders:
        raise ValueError("contenders is empty; give at least one name and call to measure")
    if rounds is None:
        seconds = check_real("seconds", seconds, low=1e-6)
    else:
        rounds = check_count("rounds", rounds)
    work_device = torch.device("cpu" if device is None else device)
    wall: dict[str, list[float]] = {name: [] for name in contenders}
    cpu: dict[str, list[float]] = {name: [] for name in contenders}
    random, order = Random(0), list(contenders)
    with _no_collection():
        repeats = {name: _warm_up(call, work_device) for name, call in contenders.items()}
        one_round = sum(
            time_call(call, repeats[name], work_device)[0] * repeats[name] for name, call in contenders.items()
        )
        if rounds is None:
            rounds = min(max(_MIN_ROUNDS, int(seconds / one_round)), _MAX_ROUNDS)
        for _ in range(rounds):
            last = order[-1]
            random.shuffle(order)
            if order[0] == last:
                order[0], order[-1] = order[-1], order[0]
            for name in order:
                waiting, computing = time_call(contenders[name], repeats[name], work_device)
                wall[name].append(waiting)
                cpu[name].append(computing)
    return Rounds(wall, cpu, ratio_clock(work_device))


def read_clocks() -> tuple[int, int]:
    """Return wall time and CPU time of the process in nanoseconds; all times in deploy are differences of these."""
    return time.perf_counter_ns(), time.process_time_ns()


def wall_seconds() -> float:
    """Return wall time in seconds, for deadlines and durations."""
    return read_clocks()[0] / 1e9


def ratio_clock(device: torch.device) -> Clock:
    """Return the clock that ratios use for work on a device (see :class:`Rounds`)."""
    return "cpu" if device.type == "cpu" and torch.get_num_threads() == 1 else "wall"


def latencies(
    contenders: Mapping[str, Callable[[], object]],
    *,
    seconds: float = 1.0,
    rounds: int | None = None,
    device: torch.device | str | None = None,
) -> dict[str, Latency]:
    """Return the wall-clock time of each call, from interleaved rounds (see :func:`time_interleaved`).

    Args:
        contenders: name -> call without arguments.
        seconds: approximate duration of all rounds together.
        rounds: number of rounds; overrides ``seconds``.
        device: device on which the calls compute; None is the CPU.

    Returns:
        Name -> seconds a call.

    Raises:
        ValueError: ``contenders`` is empty, or ``seconds`` or ``rounds`` is not above zero.

    Example:
        >>> x = torch.ones(64, 64)
        >>> took = latencies({"product": lambda: x @ x, "sum": lambda: x + x}, rounds=7)
        >>> took["sum"].low <= took["sum"].median <= took["sum"].high, took["sum"].rounds
        (True, 7)
    """
    measured = time_interleaved(contenders, seconds=seconds, rounds=rounds, device=device)
    return {name: measured.latency(name) for name in contenders}


def ratios(
    contenders: Mapping[str, Callable[[], object]],
    base: str,
    *,
    seconds: float = 1.0,
    rounds: int | None = None,
    device: torch.device | str | None = None,
) -> dict[str, Ratio]:
    """Return how many times as fast as ``base`` each call is, from interleaved rounds (see :func:`time_interleaved`).

    Uses CPU time where one thread does the work, and wall time otherwise (see :class:`Rounds`).

    Args:
        contenders: name -> call without arguments.
        base: name of the call to compare with.
        seconds: approximate duration of all rounds together.
        rounds: number of rounds; overrides ``seconds``.
        device: device on which the calls compute; None is the CPU.

    Returns:
        Name -> time of ``base`` over the call's own time.

    Raises:
        ValueError: ``base`` is not in ``contenders``, ``contenders`` is empty, or ``seconds`` or ``rounds`` is not
            above zero.

    Example:
        >>> x = torch.ones(256, 256)
        >>> found = ratios({"dense": lambda: x @ x, "half": lambda: x[:128] @ x}, "dense", rounds=7)
        >>> found["dense"].median, found["half"].median > 1
        (1.0, True)
    """
    if base not in contenders:
        raise ValueError(f"base={base!r} is not in contenders; give one of {', '.join(contenders) or '(none)'}")
    measured = time_interleaved(contenders, seconds=seconds, rounds=rounds, device=device)
    return {name: measured.ratio(name, base) for name in contenders}


def time_call(call: Callable[[], object], repeats: int, device: torch.device) -> tuple[float, float]:
    """Return wall and CPU seconds a call, over ``repeats`` calls after one uncounted call.

    Args:
        call: without arguments.
        repeats: number of calls.
        device: that the calls compute on; its work is waited for at the end.
    """
    call()
    _synchronize(device)
    wall, cpu = read_clocks()
    for _ in range(repeats):
        call()
    _synchronize(device)
    wall_end, cpu_end = read_clocks()
    return max(wall_end - wall, 1) / 1e9 / repeats, max(cpu_end - cpu, 1) / 1e9 / repeats


def _warm_up(call: Callable[[], object], device: torch.device) -> int:
    """Warm a call up and return how many repetitions the clocks need to resolve it."""
    repeats = 1
    call()
    while (waiting := time_call(call, repeats, device)[0] * repeats) < _MIN_SECONDS:
        repeats = max(repeats + 1, min(10 * repeats, round(1.2 * repeats * _MIN_SECONDS / waiting)))
    return repeats


def _synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Disable Python's garbage collector inside the ``with`` block."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the median, the lower and the upper quartile."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return middle, low, high
