"""The schedule of the sparsity, from the settings ``schedule`` and ``sparsity``."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from lightning_dynprune.base import check_share
from lightning_dynprune.schedules.base import SCHEDULES, Schedule


def sparsity_schedule(schedule: str | Schedule | Mapping[str, Any], sparsity: float | None) -> Schedule:
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
    if given is None and sparsity is None and not _has_own_final(schedule):
        raise ValueError("sparsity=None: no final sparsity is given; give sparsity in [0, 1), or a schedule with final")
    if isinstance(schedule, Mapping) and given is None:
        schedule = {key: value for key, value in schedule.items() if key != "final"}
    defaults = {"final": sparsity} if given is None and sparsity is not None else {}
    built = SCHEDULES.build(schedule, **defaults)
    if getattr(built, "final", None) is None:
        raise ValueError(
            f"schedule {type(built).__name__} has no final, the sparsity to end at; set it in the class, or let its "
            "constructor take final, which sparsity then gives"
        )
    final = check_share("schedule: final", built.final)
    if sparsity is not None and sparsity != final:
        raise ValueError(
            f"sparsity={sparsity!r} contradicts the schedule's final={final!r}; give one of them, or the same in both"
        )
    check_share("schedule: initial", built.initial)
    return built


def _has_own_final(schedule: str | Schedule | Mapping[str, Any]) -> bool:
    """Return whether the class of a schedule knows its final sparsity, so that no setting has to give it."""
    if isinstance(schedule, Schedule):
        return False
    name = schedule.get("name") if isinstance(schedule, Mapping) else schedule
    if not isinstance(name, type):
        if name not in SCHEDULES.names():
            return True  # building it raises, and names the ones there are
        name = SCHEDULES[name]
    final = inspect.signature(name).parameters.get("final")
    return final is None or final.default is not inspect.Parameter.empty
