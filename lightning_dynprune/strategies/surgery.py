"""The strategy ``surgery``: latent weights, pruned and returned at two thresholds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lightning_dynprune.strategies.base import STRATEGIES
from lightning_dynprune.strategies.straight_through import StraightThrough


@STRATEGIES.register("surgery")
@dataclass(frozen=True)
class Surgery(StraightThrough):
    """Scores a connection by the size of its latent weight, ``|w|``, with two thresholds by default.

    The default threshold is :class:`~lightning_dynprune.thresholds.Hysteresis`: a kept connection is pruned where
    ``|w| <= a T`` and a pruned one returns where ``|w| > b T``, so that connections close to the cut do not alternate.
    T follows the scheduled sparsity, or is constant, see the threshold. Use it like ``straight_through``, where masks
    change too often.

    Memory: the mask and the latent values, 5 bytes per connection for float32 weights.

    Source: Guo, Yao, Chen, "Dynamic Network Surgery for Efficient DNNs" (2016), equation 3.

    Example:
        >>> Surgery.threshold, Surgery.latent
        ('hysteresis', True)
    """

    threshold: ClassVar[str] = "hysteresis"
