"""A strategy: the size of a weight relative to the largest weight in its row."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lightning_dynprune.strategies import STRATEGIES, Strategy
from lightning_dynprune.targets import TargetView


@STRATEGIES.register("row_magnitude")
@dataclass(frozen=True)
class RowMagnitude(Strategy):
    """Scores ``(|w| / max |w| of its row)^power``, so that outputs with small weights keep connections too."""

    power: float = 1.0
    # A score depends on the other weights of its row, so a target must not be scored in pieces.
    elementwise: ClassVar[bool] = False

    def score(self, target: TargetView) -> Tensor:
        """Return one score for each connection; higher = keep."""
        rows = target.weight.abs().flatten(1)
        scores = rows / rows.amax(1, keepdim=True).clamp_min(1e-12)
        return scores.pow(self.power).view_as(target.weight)
