"""A pattern: the kernel of a convolution, from one input channel to one output channel, is pruned as a whole."""

from dataclasses import dataclass

from torch import Tensor

from lightning_dynprune.patterns import PATTERNS, TargetPattern
from lightning_dynprune.targets import Target


@PATTERNS.register("kernel")
@dataclass(frozen=True)
class Kernel(TargetPattern):
    """Kernels, scored by the mean of their entries; in a linear layer a kernel is one connection."""

    def unit_size(self, target: Target) -> int:
        """Return the number of entries of a kernel, which may differ between layers."""
        outputs, inputs = target.parameter.shape[:2]
        return target.numel // (outputs * inputs)

    def pool(self, target: Target, scores: Tensor) -> Tensor:
        """Return one score for each kernel."""
        return scores.reshape(-1, self.unit_size(target)).mean(1)

    def expand(self, target: Target, keep: Tensor) -> Tensor:
        """Return a mask shaped like the target."""
        return keep.repeat_interleave(self.unit_size(target)).view(target.parameter.shape)
