"""A warning where a training is too short for the updates of a strategy that exchanges connections."""

from __future__ import annotations

import warnings
from itertools import chain, islice

from lightning_dynprune.schedules import Clock, Horizon, Schedule, settings_at
from lightning_dynprune.strategies import Strategy

_FEW = 3


def warn_if_few_exchanges(strategy: Strategy, schedule: Schedule, horizon: Horizon, stacklevel: int) -> None:
    """Warn if fewer than three updates of a training exchange connections, though the strategy does.

    Args:
        strategy: its settings are resolved.
        schedule: of the sparsity, resolved.
        horizon: the length of training.
        stacklevel: of the warning, seen from the caller.
    """
    span = schedule.span
    if strategy.exchange == 0.0 or span is None or horizon.trial_run:
        return
    count = len(list(islice((m for m in _moments(schedule) if _exchanges(strategy, span.unit, m, horizon)), _FEW)))
    if count >= _FEW:
        return
    updates = "no update" if not count else f"only {count} update{'s' if count > 1 else ''}"
    every = max((span.end - span.begin) // 10, 1)
    remedy = f"give a smaller every, such as schedule={{'every': '{every} {span.unit}'}}" if every < span.every else ""
    warnings.warn(
        f"strategy {type(strategy).__name__}: {updates} after the first step will exchange connections: updates come "
        f"every {span.every} {span.unit} from {span.begin} to {span.end}; {remedy or 'let the schedule end later'}",
        stacklevel=stacklevel + 1,
    )


def _moments(schedule: Schedule) -> chain[int]:
    """Return the moments of all updates, in order."""
    span = schedule.span
    assert span is not None
    return chain(range(span.begin, span.end, span.every), [span.end])


def _exchanges(strategy: Strategy, unit: str, moment: int, horizon: Horizon) -> bool:
    """Return whether an update at a moment exchanges connections; the one before the first step does not."""
    per_epoch = horizon.steps_per_epoch or 1
    clock = Clock(moment, moment // per_epoch) if unit == "steps" else Clock(moment * per_epoch, moment)
    return bool(moment and settings_at(strategy, clock).exchange)
