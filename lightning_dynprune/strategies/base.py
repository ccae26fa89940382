"""What a strategy is: how much a connection is worth."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from lightning_dynprune.registry import Registry
from lightning_dynprune.targets import Target, TargetView


class Strategy(ABC):
    """Scores connections; the higher the score, the sooner a connection is kept.

    A strategy is a dataclass whose fields are its settings; whatever it remembers of a target lives in that target's
    ``state``, so one instance may serve several runs.

    Attributes:
        elementwise: a connection's score depends on nothing but that connection, so a target may be scored in pieces.
        needs_gradients: ``score`` reads ``target.grad``.
        accumulates: ``observe`` is called before each optimizer step.

    Example:
        A whole strategy:

        >>> class Smallest(Strategy):
        ...     def score(self, target):
        ...         return -target.weight.abs()
    """

    elementwise: ClassVar[bool] = True
    needs_gradients: ClassVar[bool] = False
    accumulates: ClassVar[bool] = False

    @abstractmethod
    def score(self, target: TargetView) -> Tensor:
        """Return the importance of every connection: finite, shaped like ``target.weight``, higher = keep."""

    def init_state(self, target: Target) -> dict[str, Tensor]:
        """Return the tensors to remember of a target, shaped like it; they are saved in checkpoints."""
        return {}

    def observe(self, target: TargetView) -> None:
        """Take note of a step's gradient in ``target.state``; called only where ``accumulates`` is declared."""
        return


STRATEGIES: Registry[Strategy] = Registry("strategy", Strategy)
