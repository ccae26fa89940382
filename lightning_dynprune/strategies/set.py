"""The strategy ``set``: drop the smallest weights, grow at random (sparse evolutionary training)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from lightning_dynprune.base import check_share
from lightning_dynprune.schedules import Cosine, Schedule
from lightning_dynprune.strategies.base import STRATEGIES, Strategy
from lightning_dynprune.strategies.random import uniform_scores
from lightning_dynprune.targets import TargetView

FALLING_EXCHANGE = Cosine(0.0, initial=0.3, begin=0.0, end=0.75)
STARTS = ("random", "magnitude")


@STRATEGIES.register("set")
@dataclass(frozen=True)
class SET(Strategy):
    """Scores kept connections by ``|w|`` and pruned connections, for returning, at random.

    Use it to train sparse from scratch without gradients of pruned connections. Each update prunes a share
    ``exchange`` of the kept connections of each target and returns as many there (of all targets together with the
    threshold's scope ``global``); returned connections start at zero. By default the first
    mask is drawn before the first step, with the densities of ``erk``, and updated every 100 steps until 75 % of
    training.

    Memory: the mask, 1 byte per connection.

    Args:
        exchange: share of the kept connections that an update exchanges; a number in [0, 1) or a schedule.
        start: how the first mask is chosen: "random" for an untrained network, "magnitude" for a trained one.

    Raises:
        TypeError: exchange is neither a number nor a schedule.
        ValueError: exchange is out of range, or start is unknown.

    Source: Mocanu et al., "Scalable training of artificial neural networks with adaptive sparse connectivity inspired
    by network science" (2018); densities and the falling share from Evci et al. (2020).

    Example:
        >>> import torch
        >>> from lightning_dynprune.targets import Target
        >>> view = Target("w", torch.nn.Parameter(torch.tensor([3.0, -1.0]))).view(torch.ones(2, dtype=torch.bool))
        >>> SET().score(view).tolist()
        [3.0, 1.0]
        >>> bool(((SET().grow(view) >= 0) & (SET().grow(view) < 1)).all())
        True
    """

    exchange: float | Schedule = FALLING_EXCHANGE
    start: str = "random"
    threshold: ClassVar[Mapping[str, Any]] = {"name": "topk", "scope": "erk"}
    schedule: ClassVar[Mapping[str, Any]] = {"name": "constant", "begin": 0, "end": 0.75, "every": 100}

    def __post_init__(self) -> None:
        super().__post_init__()
        kind = type(self).__name__.lower()
        given = self.exchange
        for exchange in (given.initial, given.final) if isinstance(given, Schedule) else (given,):
            check_share(f"strategy {kind}: exchange", exchange)
        if self.start not in STARTS:
            raise ValueError(f"strategy {kind}: start={self.start!r} is unknown; known: {', '.join(STARTS)}")

    def score(self, target: TargetView) -> Tensor:
        """Return ``|w|``, or random numbers for the first mask of an untrained network."""
        return uniform_scores(target) if target.step == 0 and self.start == "random" else target.weight.abs()

    def grow(self, target: TargetView) -> Tensor | None:
        """Return random numbers."""
        return uniform_scores(target)
