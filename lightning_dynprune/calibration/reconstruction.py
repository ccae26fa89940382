"""Refit the kept entries of a pruned weight so that the layer's outputs change least."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_dynprune.base import check_count, is_number
from lightning_dynprune.distributed import Ranks
from lightning_dynprune.selection import check_finite
from lightning_dynprune.targets import Target, as_matrix, from_matrix

_TRIES = 6  # dampings to try, each ten times the one before
_STEPS = 10


class Hessians:
    r"""Accumulates the Hessians of targets from their inputs, as :func:`refit` needs them.

    .. math:: H = X^\top X

    Takes 4 bytes for each pair of columns of the weight's matrix, so ``4 * columns * groups / rows`` bytes a
    connection; nothing before the first call of :meth:`accumulate`.

    Args:
        targets: the targets.

    Attributes:
        tensors: index of a target -> its Hessian so far, ``(groups, columns, columns)``, in float32 or float64.

    Example:
        >>> layer = torch.nn.Linear(2, 1, bias=False)
        >>> hessians = Hessians([Target("weight", layer.weight)])
        >>> hessians.accumulate(0, torch.tensor([[[1.0, 1.0], [1.0, 0.0]]]))
        >>> hessians.is_ready, hessians.tensors[0].tolist()
        (True, [[[2.0, 1.0], [1.0, 1.0]]])
    """

    def __init__(self, targets: Sequence[Target]) -> None:
        self.targets = list(targets)
        self.tensors: dict[int, Tensor] = {}

    def accumulate(self, position: int, rows: Tensor) -> None:
        """Add inputs of the target at ``position``: float rows ``(groups, n, columns)``."""
        if position not in self.tensors:
            self.tensors[position] = rows.new_zeros(rows.shape[0], rows.shape[2], rows.shape[2])
        self.tensors[position].baddbmm_(rows.transpose(1, 2), rows)

    def sum_over_ranks(self, position: int, ranks: Ranks) -> None:
        """Sum the Hessian of the target at ``position`` over all processes, each of which calls this."""
        target = self.targets[position]
        columns = target.columns
        seen = ranks.sum(torch.tensor([position in self.tensors]).int())
        if not int(seen):
            return
        if position not in self.tensors:
            dtype = torch.promote_types(target.parameter.dtype, torch.float32)
            shape = (target.groups, columns, columns)
            self.tensors[position] = torch.zeros(shape, dtype=dtype, device=target.parameter.device)
        self.tensors[position] = ranks.sum(self.tensors[position])

    @property
    def is_ready(self) -> bool:
        """Whether inputs of every target have been accumulated."""
        return len(self.tensors) == len(self.targets)

    def check(self) -> None:
        """Raise if :meth:`refit` cannot be called for every target.

        Raises:
            RuntimeError: a target has no inputs.
            NonFiniteError: inputs of a target are NaN or infinite.
        """
        for position, target in enumerate(self.targets):
            if position not in self.tensors:
                raise RuntimeError(
                    f"reconstruct has seen no inputs of {target.name}: call pruner.calibrate(batches) first; where its "
                    "module never runs, exclude it from targets"
                )
            check_finite(self.tensors[position], f"inputs of {target.name}")

    def refit(
        self, position: int, weight: Tensor, mask: Tensor, damping: float = 0.01, block: int = 128, steps: int = _STEPS
    ) -> Tensor:
        """Return :func:`refit` of the weight of the target at ``position``, on the accumulated inputs."""
        transposed = self.targets[position].transposed
        rows, kept = as_matrix(weight, transposed), as_matrix(mask, transposed)
        refitted = refit(rows, kept, self.tensors[position], damping, block, steps)
        return from_matrix(refitted, weight.shape, transposed)

    def clear(self) -> None:
        """Discard all Hessians and free their memory."""
        self.tensors.clear()


@torch.no_grad()
def refit(
    weight: Tensor, mask: Tensor, hessian: Tensor, damping: float = 0.01, block: int = 128, steps: int = _STEPS
) -> Tensor:
    r"""Return the weight that is zero where pruned and changes the layer's outputs least.

    .. math:: \min_{V}\; \lVert X (V - W)^\top \rVert^2 + \lambda \lVert V - W \rVert^2
        \quad\text{with}\quad V_{ij} = 0 \text{ where pruned}

    Pruned connections are eliminated column by column, each time with the optimal correction of the remaining columns
    (SparseGPT); columns that most rows prune come first, as more columns then remain to correct them. Steps of
    conjugate gradients over all rows at once then bring each row close to its least-squares solution, which a single
    pass over the columns misses. No row is worse than with the mask alone.

    It takes the memory of about five matrices of the Hessian's size and six of the weight's.

    Args:
        weight: values before pruning, rows first.
        mask: bool, shaped like ``weight``, True = kept.
        hessian: ``X^T X`` of the inputs ``X``, ``(groups, columns, columns)``.
        damping: lambda as a share of the mean of the Hessian's diagonal over inputs that were not always zero, above
            0; increased tenfold, repeatedly, if rounding leaves the Hessian indefinite.
        block: number of columns whose corrections are collected before later columns are updated.
        steps: number of conjugate gradient steps; 0 returns SparseGPT's solution.

    Returns:
        A tensor like ``weight``, computed in float32 or float64; exactly +0.0 where pruned. Kept connections of inputs
        that were always zero do not change.

    Raises:
        ValueError: shapes do not fit, or a setting is out of range.
        RuntimeError: the Hessian is indefinite with every damping tried.

    Source: Frantar and Alistarh, "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot" (2023),
    algorithm 1; the conjugate gradients: Meng et al., "ALPS: Improved Optimization for Highly Sparse One-Shot Pruning
    for Large Language Models" (2024), section 3.3.

    Example:
        Both inputs are always equal, so the second connection replaces the first:

        >>> weight, mask = torch.tensor([[1.0, 2.0]]), torch.tensor([[False, True]])
        >>> refit(weight, mask, torch.tensor([[[4.0, 4.0], [4.0, 4.0]]]), damping=1e-6)
        tensor([[0.0000, 3.0000]])
    """
    _check(weight, mask, hessian, damping, block, steps)
    dtype = torch.promote_types(torch.promote_types(weight.dtype, hessian.dtype), torch.float32)
    groups, columns = hessian.shape[:2]
    with torch.autocast(weight.device.type, enabled=False):
        kept = mask.reshape(groups, -1, columns)
        order = kept.sum(1).argsort(dim=-1, stable=True)
        across, down = order.unsqueeze(1), order.unsqueeze(2)
        kept = kept.gather(2, across.expand_as(kept))
        rows = weight.detach().to(dtype).reshape(groups, -1, columns)
        old = rows.gather(2, across.expand_as(rows))
        sums = hessian.to(dtype)
        sums = sums.gather(1, down.expand_as(sums)).gather(2, across.expand_as(sums))
        sums, inverse = _damped(sums, damping)
        new = _eliminated(old, kept, inverse, block)
        del inverse
        new = _better_rows(new, old * kept, old, sums)
        _conjugate_gradients(new, old, kept, sums, steps)
        new = torch.empty_like(new).scatter_(2, across.expand_as(new), new)
    return torch.where(mask, new.reshape(weight.shape).to(weight.dtype), 0)


def _check(weight: Tensor, mask: Tensor, hessian: Tensor, damping: float, block: int, steps: int) -> None:
    columns = weight[:1].numel()
    if mask.shape != weight.shape or hessian.dim() != 3 or hessian.shape[1:] != (columns, columns):
        raise ValueError(
            f"reconstruct: a weight {tuple(weight.shape)} needs a mask of that shape and a Hessian (groups, {columns}, "
            f"{columns}); given are {tuple(mask.shape)} and {tuple(hessian.shape)}"
        )
    if weight.shape[0] % hessian.shape[0]:
        raise ValueError(f"reconstruct: {weight.shape[0]} rows do not divide into {hessian.shape[0]} groups")
    if not is_number(damping) or damping <= 0:
        raise ValueError(f"reconstruct: damping={damping!r} is not accepted; give a number above 0")
    check_count("reconstruct: block", block)
    if steps:
        check_count("reconstruct: steps", steps)


def _damped(hessian: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """Return damped Hessians with mean diagonal 1, and the upper Cholesky factors of their inverses."""
    diagonal = hessian.diagonal(dim1=1, dim2=2)
    live = diagonal > 0
    mean = diagonal.sum(-1, keepdim=True) / live.sum(-1, keepdim=True)
    scaled = hessian / torch.where(live.any(-1, keepdim=True), mean, 1).unsqueeze(2)
    ones = scaled.diagonal(dim1=1, dim2=2)
    ones.masked_fill_(~live, 1)
    undamped = ones.clone()
    for power in range(_TRIES):
        ones.copy_(torch.where(live, undamped + damping * 10**power, undamped))
        # The factor of the inverse is the inverse of the factor of the matrix with rows and columns reversed.
        factor, failed = torch.linalg.cholesky_ex(scaled.flip(1, 2))
        if not bool(failed.any()):
            identity = torch.eye(scaled.shape[1], dtype=scaled.dtype, device=scaled.device)
            return scaled, torch.linalg.solve_triangular(factor.flip(1, 2), identity.expand_as(scaled), upper=True)
    raise RuntimeError(
        f"reconstruct: the Hessian is not positive definite with any damping from {damping:g} to "
        f"{damping * 10 ** (_TRIES - 1):g}; it must be X^T X of finite inputs X"
    )


def _eliminated(old: Tensor, kept: Tensor, inverse: Tensor, block: int) -> Tensor:
    """Eliminate the pruned connections column by column, correcting the later columns for each."""
    new, columns = old.clone(), old.shape[2]
    for start in range(0, columns, block):
        stop = min(start + block, columns)
        errors = torch.empty_like(new[:, :, start:stop])
        for column in range(start, stop):
            error = new[:, :, column].masked_fill(kept[:, :, column], 0) / inverse[:, column, column].unsqueeze(1)
            new[:, :, column:stop] -= error.unsqueeze(2) * inverse[:, column, column:stop].unsqueeze(1)
            errors[:, :, column - start] = error
        new[:, :, stop:] -= errors @ inverse[:, start:stop, stop:]
    return new.masked_fill_(~kept, 0)


def _better_rows(one: Tensor, other: Tensor, old: Tensor, hessian: Tensor) -> Tensor:
    """Return, for each row, the one of two solutions that changes the outputs less."""
    errors = [((new - old) @ hessian).mul_(new - old).sum(2, keepdim=True) for new in (one, other)]
    return torch.where(errors[0] <= errors[1], one, other)


def _conjugate_gradients(new: Tensor, old: Tensor, kept: Tensor, hessian: Tensor, steps: int) -> None:
    """Improve the kept connections by conjugate gradient steps, in place, each row on its own."""
    diagonal = hessian.diagonal(dim1=1, dim2=2).unsqueeze(1)
    residual = ((old - new) @ hessian).mul_(kept)
    direction = residual / diagonal
    slope = (residual * direction).sum(2, keepdim=True)
    for _ in range(steps):
        change = (direction @ hessian).mul_(kept)
        curvature = (direction * change).sum(2, keepdim=True)
        length = torch.where(curvature > 0, slope / curvature, 0)
        new.addcmul_(length, direction)
        residual.addcmul_(length, change, value=-1)
        scaled, before = residual / diagonal, slope
        slope = (residual * scaled).sum(2, keepdim=True)
        direction.mul_(torch.where(before > 0, slope / before, 0)).add_(scaled)
