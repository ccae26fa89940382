"""Attention heads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from lightning_dynprune.base import check_count, check_flag
from lightning_dynprune.patterns.base import PATTERNS
from lightning_dynprune.patterns.coupled import CoupledPattern

if TYPE_CHECKING:
    from lightning_dynprune.coupling import Group


@PATTERNS.register("head")
@dataclass(frozen=True)
class Head(CoupledPattern):
    """Whole attention heads: their queries, keys and values, and the columns of the projection that read them.

    A head's score is the mean over the connections that make it. Every module keeps one head at least. Where channels
    shall go too, give two callbacks disjoint targets.

    Args:
        heads: glob on module names -> number of heads, for attention whose number is not found on the module; None
            finds all by themselves.
        round_to: keep heads in multiples of this.
        relative: compare the scores of a module's heads relative to their mean.

    Raises:
        TypeError: relative is no bool.
        ValueError: round_to below 1.

    Source: Michel, Levy, Neubig, "Are Sixteen Heads Really Better than One?" (2019).

    Example:
        >>> Head().label
        'head'
    """

    heads: Mapping[str, int] | None = None
    round_to: int = 1
    relative: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.heads is not None and not isinstance(self.heads, Mapping):
            raise TypeError(
                f"pattern head: heads={self.heads!r} is not accepted; give a mapping glob -> number of heads"
            )
        check_count("pattern head: round_to", self.round_to)
        check_flag("pattern head: relative", self.relative)

    def groups(self, model: nn.Module, example_input: Any) -> list[Group]:
        """Return one group for each attention module."""
        from lightning_dynprune.coupling import attention_heads

        return attention_heads(model, self.heads)
