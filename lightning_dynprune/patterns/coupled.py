"""The base class of patterns whose units span several targets."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn

from lightning_dynprune.patterns.base import Pattern
from lightning_dynprune.targets import Target

if TYPE_CHECKING:
    from lightning_dynprune.coupling import Group
    from lightning_dynprune.schedules import Schedule
    from lightning_dynprune.strategies import Strategy
    from lightning_dynprune.thresholds import Threshold

SCOPES = ("global", "uniform")
AUTO = "auto"


class CoupledPattern(Pattern, ABC):
    """Base class of patterns whose unit, such as a channel, is pruned in all tensors that compute or read it.

    A unit consists of the rows that compute it, their biases and norm parameters, and the columns that read it. Pruned
    units do not return: with zeros on both sides their gradients are zero.

    Attributes:
        needs_example: whether :meth:`groups` needs an example input to run through the model.
        round_to: the units of a group are kept in multiples of this number; "auto" where it is still to be measured.
        relative: whether scores are divided by the mean score of their group.
    """

    coupled: ClassVar[bool] = True
    needs_example: ClassVar[bool] = False
    round_to: int | str = 1
    relative: bool = True

    @property
    def multiple(self) -> int:
        """The number that ``round_to`` is.

        Raises:
            ValueError: it is "auto", and has not been measured.
        """
        if isinstance(self.round_to, str):
            raise ValueError(
                f"pattern {self.label}: round_to={self.round_to!r} is measured by DynamicPruning; for a Pruner give "
                "the number that deploy.measure_width_multiples(model, example_input).multiple returns"
            )
        return self.round_to

    @abstractmethod
    def groups(self, model: nn.Module, example_input: Any, targets: Collection[str] | None = None) -> list[Group]:
        """Return the groups of units that can only be pruned together.

        Args:
            model: the network.
            example_input: a tensor, a tuple of arguments or a mapping of keywords; None unless ``needs_example``.
            targets: names of the parameters that are pruned; units that others make need not be found. None for all.

        Raises:
            CouplingError: the groups of this model cannot be determined.
        """

    def check(self, targets: Sequence[Target], strategy: Strategy, threshold: Threshold, schedule: Schedule) -> None:
        """Check that no part lets pruned connections return, and that the scope can be applied to groups.

        Raises:
            ValueError: a part does not work with this pattern; the message names it and what is accepted.
        """
        _ = self.multiple  # raises where it is not known
        name = type(strategy).__name__
        if strategy.latent or strategy.exchange != 0.0:
            raise ValueError(
                f"pattern {self.label} does not go with strategy={name}, which lets pruned connections return: "
                "a whole pruned unit has no gradient to select by; use a strategy that prunes for good, such as "
                "magnitude, taylor or wanda"
            )
        if schedule.can_decrease:
            raise ValueError(
                f"pattern {self.label} does not go with schedule={type(schedule).__name__}, in whose dense phases "
                "pruned units would have to return; use a schedule that only rises, such as cubic"
            )
        if any(threshold.init_memory(target) for target in targets):
            raise ValueError(
                f"pattern {self.label} does not go with threshold={threshold!r}, which stores a cut per target; "
                "use one that does not, such as topk, or hysteresis without c"
            )
        scope = getattr(threshold, "scope", "global")
        if scope not in SCOPES:
            raise ValueError(
                f"threshold: scope={scope!r} does not go with pattern {self.label}; accepted are {', '.join(SCOPES)}"
            )
