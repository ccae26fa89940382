"""The record of every update: what was dropped and grown, when, at which cut."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Update:
    """One change of the masks.

    Attributes:
        step: optimizer steps done.
        scheduled_sparsity: what the schedule asked for.
        sparsity: what was reached.
        dropped: connections pruned, by target.
        grown: connections returned, by target.
        churn: share of mask entries that flipped.
        cuts: the score at which each target was cut, by target: what scored above it stayed.
    """

    step: int
    scheduled_sparsity: float
    sparsity: float
    dropped: dict[str, int]
    grown: dict[str, int]
    churn: float
    cuts: dict[str, float] = field(default_factory=dict)
