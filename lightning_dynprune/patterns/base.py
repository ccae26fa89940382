"""The base classes of patterns."""

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
    """Base class of patterns, which define the unit of connections that is kept or pruned together.

    A pattern whose units lie in one target each derives from :class:`TargetPattern`; one whose units span several
    targets derives from :class:`~lightning_dynprune.patterns.coupled.CoupledPattern`. A pattern is a frozen dataclass
    whose fields are its settings.

    Attributes:
        sets_sparsity: whether the final sparsity follows from the pattern, so that the user need not give it.
        coupled: whether units span several targets, as those of a ``CoupledPattern`` do.
    """

    sets_sparsity: ClassVar[bool] = False
    coupled: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Convert NumPy scalars among the settings to Python numbers.

        A subclass that checks its settings in ``__post_init__`` calls this first.
        """
        convert_settings(self)

    @property
    def size(self) -> int:
        """Number of connections in a unit, where it is the same in every target."""
        return 1

    def unit_size(self, target: Target) -> int:
        """Return the number of connections in each unit of a target; by default :attr:`size`."""
        return self.size

    def num_uncovered(self, target: Target) -> int:
        """Return the number of connections of a target that belong to no unit; they are always kept."""
        return 0

    def check(self, targets: Sequence[Target], strategy: Strategy, threshold: Threshold, schedule: Schedule) -> None:
        """Check that this pattern can prune the targets and works with the other parts.

        Args:
            targets: all targets of the run.
            strategy: the strategy of the run.
            threshold: the threshold of the run.
            schedule: the schedule of the run.

        Raises:
            ValueError: a target's shape does not divide into units, or another part does not work with this pattern.
        """
        return

    def final_sparsity(self, targets: Sequence[Target], sparsity: float | None) -> float | None:
        """Return the sparsity to reach at the end of the schedule.

        Args:
            targets: all targets of the run.
            sparsity: the sparsity that the user or the threshold gave; None where none was given.

        Raises:
            ValueError: this pattern cannot reach that sparsity on these targets.
        """
        return sparsity

    @property
    def label(self) -> str:
        """The name of the pattern in messages."""
        return type(self).__name__.lower()


class TargetPattern(Pattern, ABC):
    """Base class of patterns whose units lie in one target each.

    It turns scores of connections into scores of units, and the units to keep into masks.

    Attributes:
        elementwise: whether a unit is a single connection, so that a target can be processed in pieces.
    """

    elementwise: ClassVar[bool] = False

    @abstractmethod
    def pool(self, target: Target, scores: Tensor) -> Tensor:
        """Return one score per unit.

        Args:
            target: the target.
            scores: scores of its connections, shaped like it.

        Returns:
            The scores of the units, in one dimension.
        """

    @abstractmethod
    def expand(self, target: Target, keep: Tensor) -> Tensor:
        """Return the mask that keeps the given units.

        Args:
            target: the target.
            keep: one bool per unit, in the order of :meth:`pool`.

        Returns:
            Bool, shaped like the target; connections that belong to no unit are True.
        """

    def protected_units(self, target: Target, scores: Tensor, kept: Tensor | None) -> Tensor | None:
        """Return the units that must be kept, one bool per unit; None where any unit may be pruned.

        Args:
            target: the target.
            scores: one score per unit.
            kept: one bool per unit, True where it is kept now; None where all units are candidates.
        """
        return None


PATTERNS: Registry[Pattern] = Registry("pattern", Pattern)
