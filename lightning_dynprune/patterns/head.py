"""The pattern ``head``: attention heads."""

from __future__ import annotations

from collections.abc import Collection, Mapping
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
    """Prunes whole attention heads: their queries, keys and values, and the output projection's columns for them.

    The score of a head is the mean score of the connections that compute it. Every attention module keeps at least one
    head. Layers that share a table of position biases, as those of T5, lose the same heads. To prune channels as well,
    use two callbacks with disjoint targets.

    Args:
        heads: mapping of globs on module names to numbers of heads, for attention modules without an attribute that
            says it; None reads the number from every module.
        grouped_query: the unit where several query heads share a head of keys and values: "groups", which are pruned as
            a whole, or "queries", of which every group loses as many. With a single head of keys and values it is
            always "queries".
        round_to: keep the heads of a module in multiples of this number.
        relative: whether scores are divided by the mean score of their module's heads.

    Raises:
        TypeError: heads is not a mapping, round_to is not a whole number, or relative is not a bool.
        ValueError: round_to is below 1, or grouped_query is unknown.

    Source: Michel, Levy, Neubig, "Are Sixteen Heads Really Better than One?" (2019).

    Example:
        >>> Head().label
        'head'
    """

    heads: Mapping[str, int] | None = None
    round_to: int = 1
    relative: bool = True
    grouped_query: str = "groups"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.heads is not None and not isinstance(self.heads, Mapping):
            raise TypeError(
                f"pattern head: heads={self.heads!r} is not accepted; give a mapping glob -> number of heads"
            )
        check_count("pattern head: round_to", self.round_to)
        check_flag("pattern head: relative", self.relative)
        if self.grouped_query not in ("groups", "queries"):
            raise ValueError(f"pattern head: grouped_query={self.grouped_query!r} is unknown; known: groups, queries")

    def groups(self, model: nn.Module, example_input: Any, targets: Collection[str] | None = None) -> list[Group]:
        """Return one group of heads per attention module."""
        from lightning_dynprune.coupling import attention_heads

        return attention_heads(model, self.heads, grouped_query=self.grouped_query)
