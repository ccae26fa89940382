"""The strategy ``random``: random scores, and the hash that makes them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lightning_dynprune.strategies.base import STRATEGIES, Strategy
from lightning_dynprune.targets import TargetView

_MASK = 0xFFFFFFFF


@STRATEGIES.register("random")
@dataclass(frozen=True)
class Random(Strategy):
    """Scores connections by uniform random numbers in [0, 1).

    Use it as the baseline that every other strategy has to beat. The numbers are a hash of the run's seed, the update,
    the target and the flat index, so they need no state, are equal on every device and rank, and do not depend on how a
    target is cut into pieces. The hash is a 32-bit integer hash, computed in 64 bits.

    Memory: the mask, 1 byte per connection.

    Source: the mixing constants of the "lowbias32" hash (Wellons, 2018).

    Example:
        >>> from lightning_dynprune.targets import Target
        >>> import torch
        >>> view = Target("w", torch.nn.Parameter(torch.zeros(1000))).view(torch.ones(1000, dtype=torch.bool), seed=1)
        >>> scores = Random().score(view)
        >>> 0.45 < scores.mean() < 0.55
        tensor(True)
    """

    def score(self, target: TargetView) -> Tensor:
        """Return one random number per connection."""
        return uniform_scores(target)


def uniform_scores(target: TargetView, seed: int | None = None) -> Tensor:
    """Return random numbers in [0, 1), float64 and shaped like the target, determined by seed and position alone.

    Args:
        target: the target, or a piece of one, whose positions are hashed.
        seed: a seed of up to 62 bits; by default the target's, which differs between updates.
    """
    seed = target.seed if seed is None else seed
    low = _hash((target.positions & _MASK) ^ (seed & _MASK))
    high = _hash(low ^ _hash((target.positions >> 32) ^ (seed >> 32)))
    return high.double().mul_(2.0**-32)


def _hash(bits: Tensor) -> Tensor:
    """Return the hash of 32-bit values held in int64."""
    bits = bits ^ (bits >> 16)
    bits = (bits * 0x7FEB352D) & _MASK
    bits = bits ^ (bits >> 15)
    bits = (bits * 0x846CA68B) & _MASK
    return bits ^ (bits >> 16)
