"""The strategy ``static``: one random mask for the whole run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from lightning_dynprune.strategies.base import STRATEGIES, Strategy
from lightning_dynprune.strategies.random import uniform_scores
from lightning_dynprune.targets import TargetView


@STRATEGIES.register("static")
@dataclass(frozen=True)
class Static(Strategy):
    """Scores connections by random numbers that stay the same for the whole run.

    Use it as the baseline of sparse training. By default the mask is drawn once, before the first step, with the
    densities of ``erk``.

    Memory: the mask, 1 byte per connection.

    Source: the baseline "static" of Evci et al., "Rigging the Lottery" (2020), section 4.

    Example:
        >>> import torch
        >>> from lightning_dynprune.targets import Target
        >>> target, mask = Target("w", torch.nn.Parameter(torch.zeros(9))), torch.ones(9, dtype=torch.bool)
        >>> first, later = target.view(mask, seed=1, run_seed=7), target.view(mask, seed=2, run_seed=7, step=100)
        >>> torch.equal(Static().score(first), Static().score(later))
        True
    """

    threshold: ClassVar[Mapping[str, Any]] = {"name": "topk", "scope": "erk"}
    schedule: ClassVar[Mapping[str, Any]] = {"name": "one_shot", "begin": 0}

    def score(self, target: TargetView) -> Tensor:
        """Return one random number per connection, the same at every update."""
        return uniform_scores(target, target.run_seed)
