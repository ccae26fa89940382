"""How long a call takes, beside others that answer the same question.

A machine is never quiet and never twice the same. So contenders take turns in one process, and what one saves over
another is the median of the ratios of a round, where both met the same machine.
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

_FEWEST_ROUNDS, _MOST_ROUNDS = 7, 501
_SHORTEST_TURN = 5e-4  # seconds; the clocks are read in less than a thousandth of it


@dataclass(frozen=True)
class Latency:
    """Seconds a call: median and quartiles over the rounds.

    Args:
        median: half of the rounds took less.
        low: a quarter of the rounds took less.
        high: a quarter of the rounds took more.
        rounds: rounds measured.
    """

    median: float
    low: float
    high: float
    rounds: int


@dataclass(frozen=True)
class Ratio:
    """How many times as fast as the base: median and quartiles of the ratios of each round.

    Args:
        median: above 1 where the contender is faster than the base.
        low: a quarter of the rounds gave less.
        high: a quarter of the rounds gave more.
        rounds: rounds measured.
    """

    median: float
    low: float
    high: float
    rounds: int


@dataclass(frozen=True)
class Rounds:
    """What each contender took in each round, by two clocks.

    Args:
        wall: contender -> seconds a call in each round, as a user waits for it.
        cpu: contender -> seconds of CPU time a call in each round, of all threads of the process.
        clock: the clock that ratios are read from: "cpu" where the work is done by one thread of this process, for
            what others do to the machine hardly shows in it; "wall" elsewhere, where CPU time is not waiting time.
    """

    wall: Mapping[str, Sequence[float]]
    cpu: Mapping[str, Sequence[float]]
    clock: Clock

    def latency(self, name: str, clock: Clock = "wall") -> Latency:
        """Return what a contender took."""
        seconds = self.wall[name] if clock == "wall" else self.cpu[name]
        return Latency(*_quartiles(seconds), len(seconds))

    def ratio(self, name: str, base: str, clock: Clock | None = None) -> Ratio:
        """Return how many times as fast as ``base`` a contender was, round by round, by ``clock`` (default: own)."""
        seconds = self.wall if (clock or self.clock) == "wall" else self.cpu
        ratios = [theirs / ours for ours, theirs in zip(seconds[name], seconds[base], strict=True)]
        return Ratio(*_quartiles(ratios), len(ratios))


def time_interleaved(
    contenders: Mapping[str, Callable[[], object]],
    *,
    seconds: float = 1.0,
    rounds: int | None = None,
    device: torch.device | str | None = None,
) -> Rounds:
    """Let every contender take a turn in each round, in a seeded random order.

    No contender follows itself, and each turn starts with a call that is not counted: so all find the caches as their
    own call leaves them, as a model in use does. A turn repeats the call until it is long enough for the clocks. On an
    accelerator a turn ends when the device has done its work, and nothing waits for it within a turn.

    Args:
        contenders: name -> call without arguments.
        seconds: about how long to measure, all contenders together, warm-up and at least 7 rounds aside.
        rounds: measure so many rounds instead.
        device: where the calls do their work; None is the CPU.

    Raises:
        ValueError: no contender, or ``seconds`` or ``rounds`` not above zero.
    """
    if not contenders:
        raise ValueError("contenders is empty; give at least one name and call to measure")
    if rounds is None:
        seconds = check_real("seconds", seconds, low=1e-6)
    else:
        rounds = check_count("rounds", rounds)
    place = torch.device("cpu" if device is None else device)
    wall: dict[str, list[float]] = {name: [] for name in contenders}
    cpu: dict[str, list[float]] = {name: [] for name in contenders}
    random, order = Random(0), list(contenders)
    with _no_collection():
        repeats = {name: _repeats(call, place) for name, call in contenders.items()}
        one_round = sum(_turn(call, repeats[name], place)[0] * repeats[name] for name, call in contenders.items())
        if rounds is None:
            rounds = min(max(_FEWEST_ROUNDS, int(seconds / one_round)), _MOST_ROUNDS)
        for _ in range(rounds):
            last = order[-1]
            random.shuffle(order)
            if order[0] == last:
                order[0], order[-1] = order[-1], order[0]
            for name in order:
                waited, worked = _turn(contenders[name], repeats[name], place)
                wall[name].append(waited)
                cpu[name].append(worked)
    return Rounds(wall, cpu, ratio_clock(place))


def ratio_clock(device: torch.device) -> Clock:
    """Return the clock that ratios are read from for work on a device (see :class:`Rounds`)."""
    return "cpu" if device.type == "cpu" and torch.get_num_threads() == 1 else "wall"


def latencies(
    contenders: Mapping[str, Callable[[], object]],
    *,
    seconds: float = 1.0,
    rounds: int | None = None,
    device: torch.device | str | None = None,
) -> dict[str, Latency]:
    """Return the wall time of a call of each contender, from interleaved rounds (see :func:`time_interleaved`).

    Args:
        contenders: name -> call without arguments.
        seconds: about how long to measure, all contenders together.
        rounds: measure so many rounds instead.
        device: where the calls do their work; None is the CPU.

    Returns:
        Contender -> seconds a call.

    Raises:
        ValueError: no contender, or ``seconds`` or ``rounds`` not above zero.

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
    """Return how many times as fast as one contender each is, from interleaved rounds (see :func:`time_interleaved`).

    Read from CPU time where the work is done by one thread, from wall time elsewhere (see :class:`Rounds`).

    Args:
        contenders: name -> call without arguments.
        base: the contender to compare with.
        seconds: about how long to measure, all contenders together.
        rounds: measure so many rounds instead.
        device: where the calls do their work; None is the CPU.

    Returns:
        Contender -> seconds of ``base`` over its own.

    Raises:
        ValueError: ``base`` is no contender, no contender, or ``seconds`` or ``rounds`` not above zero.

    Example:
        >>> x = torch.ones(256, 256)
        >>> found = ratios({"dense": lambda: x @ x, "half": lambda: x[:128] @ x}, "dense", rounds=7)
        >>> found["dense"].median, found["half"].median > 1
        (1.0, True)
    """
    if base not in contenders:
        raise ValueError(f"base={base!r} is no contender; give one of {', '.join(contenders) or '(none)'}")
    measured = time_interleaved(contenders, seconds=seconds, rounds=rounds, device=device)
    return {name: measured.ratio(name, base) for name in contenders}


def _turn(call: Callable[[], object], repeats: int, device: torch.device) -> tuple[float, float]:
    """Return wall and CPU seconds a call."""
    call()
    _wait_for(device)
    worked, waited = time.process_time_ns(), time.perf_counter_ns()
    for _ in range(repeats):
        call()
    _wait_for(device)
    waited, worked = time.perf_counter_ns() - waited, time.process_time_ns() - worked
    return max(waited, 1) / 1e9 / repeats, max(worked, 1) / 1e9 / repeats


def _repeats(call: Callable[[], object], device: torch.device) -> int:
    """Warm a contender up and return how many calls make a turn long enough."""
    repeats = 1
    call()
    while (waited := _turn(call, repeats, device)[0] * repeats) < _SHORTEST_TURN:
        repeats = max(repeats + 1, min(10 * repeats, round(1.2 * repeats * _SHORTEST_TURN / waited)))
    return repeats


def _wait_for(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keep Python's garbage collector out of the turns."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return median, lower and upper quartile."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return middle, low, high
