"""What a pattern is: the unit that is kept or pruned together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from lightning_dynprune.base import Registry, convert_settings
from lightning_dynprune.targets import Target

if TYPE_CHECKING:
    from lightning_dynprune.schedules import Schedule
    from lightning_dynprune.strategies import Strategy
    from lightning_dynprune.thresholds import Threshold


class Pattern:
    """The unit that is kept or pruned together.

    One whose units lie in one target each derives from :class:`TargetPattern`, one whose units reach over several from
    :class:`~lightning_dynprune.patterns.coupled.CoupledPattern`.

    Attributes:
        sets_sparsity: the sparsity follows from the pattern, so it need not be given.
        coupled: units reach over several targets; see :class:`~lightning_dynprune.patterns.coupled.CoupledPattern`.
    """

    sets_sparsity: ClassVar[bool] = False
    coupled: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Convert NumPy scalars among the settings to Python numbers; a subclass that checks its own calls this."""
        convert_settings(self)

    @property
    def size(self) -> int:
        """Connections in a unit."""
        return 1

    def num_uncovered(self, target: Target) -> int:
        """Return how many connections of a target no unit covers; they are always kept."""
        return 0

    def check(self, targets: Sequence[Target], strategy: Strategy, threshold: Threshold, schedule: Schedule) -> None:
        """Refuse what this pattern cannot prune.

        Raises:
            ValueError: a target's shape does not divide into units, or another part does not go with them.
        """
        return

    def final_sparsity(self, targets: Sequence[Target], sparsity: float | None) -> float | None:
        """Return the sparsity to end at, given what the user asked for (None: nothing).

        Raises:
            ValueError: this pattern cannot reach it on these targets.
        """
        return sparsity

    @property
    def label(self) -> str:
        """The pattern as messages name it."""
        return type(self).__name__.lower()


class TargetPattern(Pattern, ABC):
    """Turns scores of connections into scores of units, and units kept back into masks, target by target.

    Attributes:
        elementwise: a unit is one connection and knows no others, so a target may be read and written in pieces.
    """

    elementwise: ClassVar[bool] = False

    @abstractmethod
    def pool(self, target: Target, scores: Tensor) -> Tensor:
        """Return one score a unit, in one dimension, from scores shaped like the target."""

    @abstractmethod
    def expand(self, target: Target, keep: Tensor) -> Tensor:
        """Return a mask shaped like the target from one bool a unit; what no unit covers is kept."""

    def protected_units(self, target: Target, scores: Tensor, lives: Tensor | None) -> Tensor | None:
        """Return which units must stay, one bool each; None where every one may go.

        Args:
            target: whose units they are.
            scores: one a unit.
            lives: which of them live, or None where all are candidates.
        """
        return None


PATTERNS: Registry[Pattern] = Registry("pattern", Pattern)
