"""The pattern ``n_m``: N of every M consecutive connections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from lightning_dynprune.base import check_count, check_flag
from lightning_dynprune.patterns.base import PATTERNS, TargetPattern
from lightning_dynprune.patterns.block import divisors
from lightning_dynprune.patterns.layouts import check_layouts
from lightning_dynprune.targets import Target

if TYPE_CHECKING:
    from lightning_dynprune.schedules import Schedule
    from lightning_dynprune.strategies import Strategy
    from lightning_dynprune.thresholds import Threshold


@PATTERNS.register("n_m")
@dataclass(frozen=True)
class NM(TargetPattern):
    """Keeps ``n`` of every ``m`` consecutive connections along the input dimension (input channels of a convolution).

    The ``n`` highest-scored connections of each group are always kept, and the others are pruned by score as the
    schedule demands. The final sparsity is ``1 - n / m``, with exactly ``n`` kept in every group, so it need not be
    given. NVIDIA GPUs since Ampere have tensor cores for 2:4.

    Args:
        n: number of connections kept of a group.
        m: number of connections of a group.
        pad: whether inputs that fill no whole group are left dense. Without it a target whose inputs ``m`` does not
            divide raises.

    Raises:
        TypeError: n or m is not a whole number, or pad is not a bool.
        ValueError: n is below 1 or not below m.

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
        """The name of the pattern in messages, as in ``n_m 2:4``."""
        return f"n_m {self.n}:{self.m}"

    def pool(self, target: Target, scores: Tensor) -> Tensor:
        """Return the scores ordered so that every ``m`` consecutive entries are a group."""
        return self._groups(target, scores).reshape(-1)

    def expand(self, target: Target, keep: Tensor) -> Tensor:
        """Return the mask that keeps the given connections and all inputs outside whole groups."""
        mask = torch.ones(target.parameter.shape, dtype=torch.bool, device=keep.device)
        if keep.numel():
            grouped = self._groups(target, mask)
            grouped.copy_(keep.view(grouped.shape))
        return mask

    def protected_units(self, target: Target, scores: Tensor, kept: Tensor | None) -> Tensor | None:
        """Return the ``n`` highest-scored connections of every group; of equal ones the first."""
        if kept is not None:
            scores = scores.masked_fill(~kept, -torch.inf)
        best_first = scores.view(-1, self.m).argsort(dim=1, descending=True, stable=True)
        best = torch.zeros(best_first.shape, dtype=torch.bool, device=scores.device)
        best.scatter_(1, best_first[:, : self.n], True)
        return best.view(-1) if kept is None else best.view(-1) & kept

    def num_uncovered(self, target: Target) -> int:
        """Return the number of connections outside whole groups."""
        return target.numel - self._covered(target)

    def check(self, targets: Sequence[Target], strategy: Strategy, threshold: Threshold, schedule: Schedule) -> None:
        """Check that the inputs of every target divide into groups and that the strategy exchanges no connections.

        Raises:
            ValueError: a target's inputs do not divide and ``pad`` is not set, or the strategy exchanges connections;
                the message names it and what is accepted.
        """
        if strategy.exchange != 0.0:
            raise ValueError(
                f"pattern {self.label} does not go with strategy={type(strategy).__name__}, which exchanges "
                "connections regardless of their group; use a strategy that does not, such as magnitude, taylor or "
                "straight_through"
            )
        check_layouts(self.label, targets)
        for target in targets:
            inputs = target.parameter.shape[self._inputs(target)] if target.parameter.dim() > 1 else 0
            if not self.pad and (not inputs or inputs % self.m):
                fits = ", ".join(str(d) for d in divisors(inputs) if d > self.n) or "none"
                raise ValueError(
                    f"pattern n_m: m={self.m} does not divide the {inputs} inputs of {target.name}; accepted for "
                    f"n={self.n}: {fits}; or exclude it, or give pad=True to leave its edge dense"
                )

    def final_sparsity(self, targets: Sequence[Target], sparsity: float | None) -> float | None:
        """Return the sparsity at which exactly ``n`` of every ``m`` connections are kept.

        Raises:
            ValueError: another sparsity was given, or min_kept of a target keeps more connections.
        """
        total = sum(target.numel for target in targets)
        pruned = sum(self._covered(target) for target in targets) * (self.m - self.n) // self.m
        limited = [
            t for t in targets if t.numel - self.num_uncovered(t) and t.min_kept * self.m > self._covered(t) * self.n
        ]
        if limited:
            raise ValueError(
                f"min_kept={limited[0].min_kept} of {limited[0].name} is more than pattern {self.label} keeps; lower it"
            )
        if sparsity is not None and abs(sparsity * total - pruned) > 1:
            raise ValueError(
                f"sparsity={sparsity!r} is not what pattern {self.label} ends at, which is {pruned / total:.6g} here; "
                "leave sparsity out, or choose other n and m"
            )
        return pruned / total

    @staticmethod
    def _inputs(target: Target) -> int:
        """Return the input dimension of a target."""
        return 0 if target.transposed else 1

    def _covered(self, target: Target) -> int:
        """Return the number of connections in whole groups."""
        if target.parameter.dim() < 2:
            return 0
        inputs = target.parameter.shape[self._inputs(target)]
        return target.numel // inputs * (inputs - inputs % self.m)

    def _groups(self, target: Target, tensor: Tensor) -> Tensor:
        """Return a view of a tensor with the inputs of whole groups in its last dimension."""
        if tensor.dim() < 2:
            return tensor[:0]
        inputs = tensor.movedim(self._inputs(target), -1)
        return inputs[..., : inputs.shape[-1] - inputs.shape[-1] % self.m]
