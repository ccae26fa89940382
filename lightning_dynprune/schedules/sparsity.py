"""The schedule of the sparsity, from what the user gave for both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_dynprune.base import check_share
from lightning_dynprune.schedules.base import SCHEDULES, Schedule


def sparsity_schedule(schedule: str | Mapping[str, Any] | Schedule, sparsity: float | None) -> Schedule:
    """Return the schedule of the sparsity, from what the user gave for both.

    Raises:
        TypeError: sparsity is no number.
        ValueError: sparsity is outside [0, 1), is not given at all, or contradicts the schedule's own.
    """
    sparsity = None if sparsity is None else check_share("sparsity", sparsity)
    given = schedule.get("final") if isinstance(schedule, Mapping) else getattr(schedule, "final", None)
    if given is None:
        if sparsity is None:
            raise ValueError(
                "sparsity=None: how sparse to become is not said; give sparsity in [0, 1), or a schedule with final"
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
