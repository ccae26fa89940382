"""N of every M connections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from lightning_dynprune.base import check_count, check_flag
from lightning_dynprune.patterns.base import PATTERNS, TargetPattern
from lightning_dynprune.patterns.block import divisors
from lightning_dynprune.targets import Target

if TYPE_CHECKING:
    from lightning_dynprune.schedules import Schedule
    from lightning_dynprune.strategies import Strategy
    from lightning_dynprune.thresholds import Threshold


@PATTERNS.register("n_m")
@dataclass(frozen=True)
class NM(TargetPattern):
    """Keeps ``n`` of every ``m`` connections in a row, along the input dimension (a convolution's input channels).

    The ``n`` best of each group always stay, and the others go by their score, along the schedule. So it ends at the
    sparsity ``1 - n / m``, which need not be given, with exactly ``n`` in every group. 2:4 is what the sparse tensor
    cores of NVIDIA GPUs since Ampere multiply.

    Args:
        n: connections kept of a group.
        m: connections of a group.
        pad: leave the inputs that fill no group dense, where ``m`` does not divide them; such a target raises
            otherwise.

    Raises:
        ValueError: not 1 <= n < m.

    Source: Mishra et al., "Accelerating Sparse Deep Neural Networks" (2021).

    Example:
        >>> target = Target("w", torch.nn.Parameter(torch.zeros(1, 4)))
        >>> scores = torch.tensor([1.0, 4.0, 3.0, 2.0])
        >>> NM(2, 4).protected_units(target, scores, None).tolist()
        [False, True, True, False]
    """

    n: int = 2
    m: int = 4
    pad: bool = False
    sets_sparsity: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("pattern n_m: n", self.n)
        check_count("pattern n_m: m", self.m)
        check_flag("pattern n_m: pad", self.pad)
        if self.n >= self.m:
            raise ValueError(f"pattern n_m: n={self.n} of m={self.m} prunes nothing; give n below m")

    @property
    def label(self) -> str:
        """As in 2:4."""
        return f"n_m {self.n}:{self.m}"

    def pool(self, target: Target, scores: Tensor) -> Tensor:
        """Return the scores with the inputs in the last place, so that each ``m`` in a row are a group."""
        return self._groups(target, scores).reshape(-1)

    def expand(self, target: Target, keep: Tensor) -> Tensor:
        """Return the mask in the target's shape; inputs that fill no group are kept."""
        mask = torch.ones(target.parameter.shape, dtype=torch.bool, device=keep.device)
        if keep.numel():
            grouped = self._groups(target, mask)
            grouped.copy_(keep.view(grouped.shape))
        return mask

    def protected_units(self, target: Target, scores: Tensor, lives: Tensor | None) -> Tensor | None:
        """Return the ``n`` best of every group; of equal ones the first."""
        if lives is not None:
            scores = scores.masked_fill(~lives, -torch.inf)
        best_first = scores.view(-1, self.m).argsort(dim=1, descending=True, stable=True)
        best = torch.zeros(best_first.shape, dtype=torch.bool, device=scores.device)
        best.scatter_(1, best_first[:, : self.n], True)
        return best.view(-1) if lives is None else best.view(-1) & lives

    def num_uncovered(self, target: Target) -> int:
        """Return the connections of inputs that fill no group."""
        return target.numel - self._covered(target)

    def check(self, targets: Sequence[Target], strategy: Strategy, threshold: Threshold, schedule: Schedule) -> None:
        """Refuse inputs that do not divide into groups, unless they are padded, and strategies that exchange.

        Raises:
            ValueError: naming the target and what would be accepted, or the strategy.
        """
        if strategy.exchange != 0.0:
            raise ValueError(
                f"pattern {self.label} does not go with strategy={type(strategy).__name__}, which exchanges "
                "connections whatever group they are in; use one that does not, such as magnitude, taylor or "
                "straight_through"
            )
        for target in targets:
            inputs = target.parameter.shape[self._inputs(target)] if target.parameter.dim() > 1 else 0
            if not self.pad and (not inputs or inputs % self.m):
                fits = ", ".join(str(d) for d in divisors(inputs) if d > self.n) or "none"
                raise ValueError(
                    f"pattern n_m: m={self.m} does not divide the {inputs} inputs of {target.name}; accepted for "
                    f"n={self.n}: {fits}; or exclude it, or give pad=True to leave its edge dense"
                )

    def final_sparsity(self, targets: Sequence[Target], sparsity: float | None) -> float | None:
        """Return the sparsity that ``n`` of ``m`` amount to.

        Raises:
            ValueError: another one is asked for, or min_kept keeps more.
        """
        total = sum(target.numel for target in targets)
        pruned = sum(self._covered(target) for target in targets) * (self.m - self.n) // self.m
        poor = [
            t for t in targets if t.numel - self.num_uncovered(t) and t.min_kept * self.m > self._covered(t) * self.n
        ]
        if poor:
            raise ValueError(
                f"min_kept={poor[0].min_kept} of {poor[0].name} is more than pattern {self.label} keeps; lower it"
            )
        if sparsity is not None and abs(sparsity * total - pruned) > 1:
            raise ValueError(
                f"sparsity={sparsity!r} is not what pattern {self.label} ends at, which is {pruned / total:.6g} here; "
                "leave sparsity out, or choose other n and m"
            )
        return pruned / total

    @staticmethod
    def _inputs(target: Target) -> int:
        """Return the dimension of the inputs."""
        return 0 if target.transposed else 1

    def _covered(self, target: Target) -> int:
        if target.parameter.dim() < 2:
            return 0
        inputs = target.parameter.shape[self._inputs(target)]
        return target.numel // inputs * (inputs - inputs % self.m)

    def _groups(self, target: Target, tensor: Tensor) -> Tensor:
        """Return a view of the inputs that fill groups, in the last dimension."""
        if tensor.dim() < 2:
            return tensor[:0]
        inputs = tensor.movedim(self._inputs(target), -1)
        return inputs[..., : inputs.shape[-1] - inputs.shape[-1] % self.m]
