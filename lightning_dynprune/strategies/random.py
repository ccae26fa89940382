"""Chance, the baseline every other strategy has to beat."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lightning_dynprune.strategies.base import STRATEGIES, Strategy
from lightning_dynprune.targets import TargetView

_MASK = 0xFFFFFFFF


@STRATEGIES.register("random")
@dataclass(frozen=True)
class Random(Strategy):
    """Uniform numbers in [0, 1), a function of the run's seed, the update, the target and the flat index alone.

    So they need no state, come out alike on every device and every rank, and a target may be scored in any pieces. The
    function is a 32-bit integer hash, computed in 64 bits. Keeps the mask alone (1 byte a connection).

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
        """Return the hash of every position."""
        return uniform_scores(target)


def uniform_scores(target: TargetView, seed: int | None = None) -> Tensor:
    """Return numbers in [0, 1), float64 and shaped like the target, a function of seed and position alone.

    Args:
        target: whose positions are hashed.
        seed: up to 62 bits; by default the target's, which differs between updates.
    """
    seed = target.seed if seed is None else seed
    low = _mixed((target.positions & _MASK) ^ (seed & _MASK))
    high = _mixed(low ^ _mixed((target.positions >> 32) ^ (seed >> 32)))
    return high.double().mul_(2.0**-32)


def _mixed(bits: Tensor) -> Tensor:
    """Return the hash of 32-bit values held in int64."""
    bits = bits ^ (bits >> 16)
    bits = (bits * 0x7FEB352D) & _MASK
    bits = bits ^ (bits >> 15)
    bits = (bits * 0x846CA68B) & _MASK
    return bits ^ (bits >> 16)
