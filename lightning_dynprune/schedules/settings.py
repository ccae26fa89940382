"""Settings of strategies and thresholds that are schedules: numbers that change during training."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar, cast

from lightning_dynprune.schedules.base import Clock, Horizon, Schedule

PartT = TypeVar("PartT")


def _schedules_of(part: Any) -> dict[str, Schedule]:
    """Return the settings of a part that are schedules, by name."""
    if not dataclasses.is_dataclass(part):
        return {}
    values = {f.name: getattr(part, f.name) for f in dataclasses.fields(part)}
    return {name: value for name, value in values.items() if isinstance(value, Schedule)}


def resolve_settings(part: PartT, horizon: Horizon) -> PartT:
    """Return the part with the moments of its scheduled settings converted to counts of steps or epochs."""
    resolved = {name: value.resolve(horizon) for name, value in _schedules_of(part).items()}
    return cast("PartT", dataclasses.replace(cast("Any", part), **resolved)) if resolved else part


def settings_at(part: PartT, clock: Clock) -> PartT:
    """Return the part with each scheduled setting replaced by its value at this moment."""
    current = {name: value.value(clock) for name, value in _schedules_of(part).items()}
    return cast("PartT", dataclasses.replace(cast("Any", part), **current)) if current else part
