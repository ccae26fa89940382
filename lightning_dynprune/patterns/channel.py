"""The pattern ``channel``: outputs of convolutions and linear layers."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn

from lightning_dynprune.base import check_count, check_flag
from lightning_dynprune.patterns.base import PATTERNS
from lightning_dynprune.patterns.coupled import AUTO, CoupledPattern

if TYPE_CHECKING:
    from lightning_dynprune.coupling import Group

_MAX_REASONS = 5


@PATTERNS.register("channel")
@dataclass(frozen=True)
class Channel(CoupledPattern):
    """Prunes whole channels in every layer that computes, normalizes or reads them, so that the model can be slimmed.

    The layers that share channels are found by running an example input through the model: residual sums and depthwise
    convolutions share their channels, norms pass them on, and the following layers read them. The model's outputs are
    never pruned, nor are channels that a layer norm mixes. The score of a channel is the mean score of the connections
    that compute it, over all targets that do. The sparsity counts all pruned connections, including the columns that
    read pruned channels: pruning half of all channels is a sparsity of about 75 %.

    Args:
        round_to: keep the channels of a group in multiples of this number, where the group has that many; 8 suits most
            hardware. ``"auto"``: DynamicPruning measures when a fit begins which multiples run fast on its device.
        relative: whether scores are divided by the mean score of their group, so that groups with small weights are not
            pruned first.

    Raises:
        TypeError: round_to is no whole number, or relative is not a bool.
        ValueError: round_to is below 1, or another text than "auto".

    Source: Fang et al., "DepGraph: Towards Any Structural Pruning" (2023), for the groups.

    Example:
        >>> Channel(round_to=8).size
        1
    """

    round_to: int | str = 1
    relative: bool = True
    needs_example: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.round_to, str) and self.round_to != AUTO:
            raise ValueError(
                f"pattern channel: round_to={self.round_to!r} is not accepted; give a whole number from 1, or {AUTO!r}"
            )
        if self.round_to != AUTO:
            check_count("pattern channel: round_to", self.round_to)
        check_flag("pattern channel: relative", self.relative)

    def groups(self, model: nn.Module, example_input: Any, targets: Collection[str] | None = None) -> list[Group]:
        """Return the groups of coupled channels, found by running the example input through the model.

        Raises:
            CouplingError: no channels of the model can be removed; the message gives the reasons.
        """
        from lightning_dynprune.coupling import CouplingError, coupled_groups

        coupling = coupled_groups(model, example_input, writers=targets)
        if not coupling.groups:
            shown = [f"{name!r}: {reason}" for name, reason in coupling.left_out.items()][:_MAX_REASONS]
            raise CouplingError(
                f"pattern channel: no channels of {type(model).__name__} can be removed ({'; '.join(shown)}); give "
                "other targets, or a pattern that needs no channels, such as block"
            )
        return coupling.groups
