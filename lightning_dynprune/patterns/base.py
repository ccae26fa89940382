"""What a pattern is: the unit that is kept or pruned together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from lightning_dynprune.registry import Registry
from lightning_dynprune.targets import Target


class Pattern(ABC):
    """Turns scores of connections into scores of units, and units kept back into masks.

    Attributes:
        elementwise: a unit is one connection, so a target may be read and written in pieces.
    """

    elementwise: ClassVar[bool] = False

    @abstractmethod
    def pool(self, target: Target, scores: Tensor) -> Tensor:
        """Return one score a unit, in one dimension, from scores shaped like the target."""

    @abstractmethod
    def expand(self, target: Target, keep: Tensor) -> Tensor:
        """Return a mask shaped like the target from one bool a unit."""


PATTERNS: Registry[Pattern] = Registry("pattern", Pattern)
