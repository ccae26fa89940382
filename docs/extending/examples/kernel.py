"""A pattern: the kernel of a convolution, from one input channel to one output channel, is pruned as a whole."""

from dataclasses import dataclass

from torch import Tensor

from lightning_dynprune.patterns import PATTERNS, TargetPattern
from lightning_dynprune.targets import Target


@PATTERNS.register("kernel")
@dataclass(frozen=True)
class Kernel(TargetPattern):
    """Kernels of ``side x side`` entries, scored by their mean; every target must be such a convolution."""

    side: int = 3

    @property
    def size(self) -> int:
        """Connections of a unit."""
        return self.side**2

    def pool(self, target: Target, scores: Tensor) -> Tensor:
        """Return one score for each kernel."""
        return scores.reshape(-1, self.size).mean(1)

    def expand(self, target: Target, keep: Tensor) -> Tensor:
        """Return a mask shaped like the target."""
        return keep.repeat_interleave(self.size).view(target.parameter.shape)
