"""Dynamic network surgery: prune and splice latent weights around a two-sided threshold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lightning_dynprune.strategies.base import STRATEGIES
from lightning_dynprune.strategies.straight_through import StraightThrough


@STRATEGIES.register("surgery")
@dataclass(frozen=True)
class Surgery(StraightThrough):
    """``|w|`` of latent weights, cut by :class:`~lightning_dynprune.thresholds.Hysteresis` where no other is given.

    A living connection is pruned where ``|w| <= a T`` and a pruned one spliced back where ``|w| > b T``, so that one
    close to the cut does not come and go. T follows the scheduled sparsity, or is frozen, see the threshold. Keeps the
    latent values (4 bytes a connection for float32) beside the mask (1 byte).

    Source: Guo, Yao, Chen, "Dynamic Network Surgery for Efficient DNNs" (2016), equation 3.

    Example:
        >>> Surgery.threshold, Surgery.latent
        ('hysteresis', True)
    """

    threshold: ClassVar[str] = "hysteresis"
