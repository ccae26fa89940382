"""Channels: outputs of convolutions and linear layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn

from lightning_dynprune.base import check_count, check_flag
from lightning_dynprune.patterns.base import PATTERNS
from lightning_dynprune.patterns.coupled import CoupledPattern

if TYPE_CHECKING:
    from lightning_dynprune.coupling import Group


@PATTERNS.register("channel")
@dataclass(frozen=True)
class Channel(CoupledPattern):
    """Whole channels, in everything that makes, carries or reads them, so that the network can be slimmed.

    Which tensors belong together is found by following an example input through the model: residual sums and
    depthwise convolutions share their channels, norms carry them, what follows reads them. The model's outputs are
    never pruned, nor channels that a layer norm mixes. A unit's score is the mean over the connections that make it,
    those of all targets that do. The sparsity counts all pruned connections, the columns that read pruned channels
    too: half of all channels is about 75 %.

    Args:
        round_to: keep the channels of a group in multiples of this, where there are as many; 8 suits most hardware.
        relative: compare the scores of a group relative to their mean, so that no group goes first for the scale of
            its weights.

    Raises:
        TypeError: relative is no bool.
        ValueError: round_to below 1.

    Source: Fang et al., "DepGraph: Towards Any Structural Pruning" (2023), for the groups.

    Example:
        >>> Channel(round_to=8).size
        1
    """

    round_to: int = 1
    relative: bool = True
    needs_example: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("pattern channel: round_to", self.round_to)
        check_flag("pattern channel: relative", self.relative)

    def groups(self, model: nn.Module, example_input: Any) -> list[Group]:
        """Return the groups of channels that the example input meets."""
        from lightning_dynprune.coupling import coupled_groups

        return list(coupled_groups(model, example_input).groups)
