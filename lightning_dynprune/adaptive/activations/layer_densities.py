"""Share out a number of multiply-adds over layers, where skipping inputs changes their outputs least."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import torch
from torch import Tensor

LEVELS = 32


def output_errors(rows: Tensor, table: Tensor, thresholds: Sequence[float]) -> Tensor:
    r"""Return the relative error of a layer's output at each threshold, float64.

    .. math:: e(t) = \frac{\lVert (x \odot [|x| \le t])\, W \rVert^2}{\lVert x W \rVert^2}

    Args:
        rows: inputs of the layer, x, ``(n, inputs)``.
        table: its weight, W, ``(inputs, outputs)``.
        thresholds: to try.

    Returns:
        ``(thresholds,)``; zeros where the output is zero.

    Example:
        >>> rows, table = torch.tensor([[3.0, 4.0]]), torch.eye(2)
        >>> output_errors(rows, table, [0.0, 3.0, 4.0]).tolist()
        [0.0, 0.36, 1.0]
    """
    whole = (rows @ table).double().square().sum()
    lost = [(torch.where(rows.abs() <= t, rows, 0.0) @ table).double().square().sum() for t in thresholds]
    return torch.stack(lost) / whole if whole > 0 else torch.zeros(len(lost), dtype=torch.float64)


def share_out(errors: Tensor, natural: Tensor, macs: Sequence[float], target: float) -> Tensor:
    """Return a density for each layer, so that the multiply-adds sum to a target and the errors stay small.

    Layers start at their natural density and are thinned by steps of 1/32 of it, each time the layer whose output
    error rises least for the multiply-adds saved. The last step is taken in part, to meet the target.

    Args:
        errors: relative output error of each layer at 1/32, 2/32, ..., 1 of its natural density, ``(layers, 32)``.
        natural: share of inputs that are not zero, ``(layers,)``.
        macs: multiply-adds of each layer if all inputs are live.
        target: sum of multiply-adds to reach, at least that of 1/32 of the natural densities.

    Returns:
        float64 ``(layers,)``.

    Example:
        The first layer's error grows with the square of what is skipped, the second's is ten times as large:

        >>> skipped = 1 - torch.arange(1, 33) / 32
        >>> errors = torch.stack([skipped**2, 10 * skipped**2])
        >>> share_out(errors, torch.ones(2), [1.0, 1.0], 1.5).tolist()
        [0.53125, 0.96875]
    """
    levels = [LEVELS] * len(macs)
    work = [float(share) * each for share, each in zip(natural, macs, strict=True)]
    total = sum(work)

    def price(layer: int) -> float:
        level = levels[layer]
        rise = float(errors[layer, level - 2] - errors[layer, level - 1])
        return rise / max(work[layer] / LEVELS, 1e-300)

    queue = [(price(layer), layer) for layer in range(len(macs)) if work[layer] > 0]
    heapq.heapify(queue)
    partial = torch.zeros(len(macs), dtype=torch.float64)
    while queue and total > target:
        _, layer = heapq.heappop(queue)
        step = work[layer] / LEVELS
        levels[layer] -= 1
        if total - step < target:
            partial[layer] = (target - (total - step)) / step
        total -= step
        if levels[layer] > 1:
            heapq.heappush(queue, (price(layer), layer))
    return natural * (torch.tensor(levels, dtype=torch.float64) + partial) / LEVELS


def thresholds_at(quantiles: Tensor, natural: Tensor, densities: Tensor) -> Tensor:
    """Return the thresholds that leave shares of inputs live, float32 ``(layers,)``.

    Args:
        quantiles: magnitudes at evenly spaced shares from 0 to 1, ``(layers, shares)``.
        natural: share of inputs that are not zero, ``(layers,)``.
        densities: share of live inputs of each layer; from ``natural`` on, the threshold is 0.

    Example:
        >>> quantiles = torch.tensor([[0.0, 0.0, 1.0, 3.0, 8.0]], dtype=torch.float64)
        >>> [thresholds_at(quantiles, torch.tensor([0.75]), torch.tensor([d])).item() for d in (0.125, 0.25, 0.75)]
        [5.5, 3.0, 0.0]
    """
    cells = quantiles.shape[1] - 1
    zeros, place = ((1 - share.double()).clamp(0, 1) * cells for share in (natural, densities))
    below = place.floor().clamp(max=cells - 1)
    low, high = (quantiles.gather(1, (below.long() + more)[:, None])[:, 0] for more in (0, 1))
    # Zeros may end inside a cell; the magnitudes rise from there.
    start = torch.maximum(below, zeros.clamp(max=cells - 1e-6))
    part = ((place - start) / (below + 1 - start).clamp(min=1e-9)).clamp(0, 1)
    return torch.where(place <= zeros, 0.0, low + part * (high - low)).float()
