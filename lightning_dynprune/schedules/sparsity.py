"""The schedule of the sparsity, from the settings ``schedule`` and ``sparsity``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_dynprune.base import check_share
from lightning_dynprune.schedules.base import SCHEDULES, Schedule


def sparsity_schedule(schedule: str | Mapping[str, Any] | Schedule, sparsity: float | None) -> Schedule:
    """Return the schedule of the sparsity, from the settings ``schedule`` and ``sparsity``.

    Args:
        schedule: a registered name, a mapping with ``name``, or an instance.
        sparsity: the sparsity to reach at the end; None where the schedule's ``final`` says it.

    Raises:
        TypeError: sparsity is not a number.
        ValueError: sparsity is outside [0, 1), is given neither here nor in the schedule, or differs between the two.
    """
    sparsity = None if sparsity is None else check_share("sparsity", sparsity)
    given = schedule.get("final") if isinstance(schedule, Mapping) else getattr(schedule, "final", None)
    if given is None:
        if sparsity is None:
            raise ValueError(
                "sparsity=None: no final sparsity is given; give sparsity in [0, 1), or a schedule with final"
            )
        built = SCHEDULES.build(schedule, final=sparsity)
        check_share("schedule: initial", built.initial)
        return built
    given = check_share("schedule: final", given)
    if sparsity is not None and sparsity != given:
        raise ValueError(
            f"sparsity={sparsity!r} contradicts the schedule's final={given!r}; give one of them, or the same in both"
        )
    built = SCHEDULES.build(schedule)
    check_share("schedule: initial", built.initial)
    return built
