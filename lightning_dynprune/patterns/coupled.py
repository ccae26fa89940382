"""What patterns have in common whose units reach over several targets."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
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


class CoupledPattern(Pattern, ABC):
    """A pattern whose unit is pruned in all the tensors that make it and read it.

    A unit lives or goes in its whole group: the rows that compute it, their biases and norms, and the columns that
    read it. So its values are gone for good: there is no gradient behind zeros on both sides, and nothing that is
    pruned returns.

    Attributes:
        needs_example: :meth:`groups` follows an example input through the model.
        round_to: the units of a group are kept in multiples of this.
        relative: scores are compared relative to their group's mean.
    """

    coupled: ClassVar[bool] = True
    needs_example: ClassVar[bool] = False
    round_to: int = 1
    relative: bool = True

    @abstractmethod
    def groups(self, model: nn.Module, example_input: Any) -> list[Group]:
        """Return the model's groups of units.

        Raises:
            CouplingError: the model cannot be followed.
        """

    def check(self, targets: Sequence[Target], strategy: Strategy, threshold: Threshold, schedule: Schedule) -> None:
        """Refuse what lets pruned connections return, and scopes that know nothing of groups.

        Raises:
            ValueError: naming the setting and what would be accepted.
        """
        name = type(strategy).__name__
        if strategy.latent or strategy.exchange != 0.0:
            raise ValueError(
                f"pattern {self.label} does not go with strategy={name}, which lets pruned connections return: "
                "behind a whole pruned unit there is no gradient that could tell which; use one that does not, such "
                "as magnitude, taylor or wanda"
            )
        if schedule.can_decrease:
            raise ValueError(
                f"pattern {self.label} does not go with schedule={type(schedule).__name__}, in whose dense phases "
                "pruned units would have to return; use one that only rises, such as cubic"
            )
        if any(threshold.init_memory(target) for target in targets):
            raise ValueError(
                f"pattern {self.label} does not go with threshold={threshold!r}, which remembers each target's cut; "
                "use one that does not, such as topk, or hysteresis without c"
            )
        scope = getattr(threshold, "scope", "global")
        if scope not in SCOPES:
            raise ValueError(
                f"threshold: scope={scope!r} does not go with pattern {self.label}; accepted are {', '.join(SCOPES)}"
            )
