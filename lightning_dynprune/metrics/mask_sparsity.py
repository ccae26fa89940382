"""Sparsity: the share of connections that masks prune."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_dynprune.metrics.counting import Masks, exact, named_masks, total


def _count(masks: Masks, device: torch.device | None = None) -> tuple[Tensor, int]:
    found = named_masks(masks).values()
    connections = sum(mask.numel() for mask in found)
    kept = [torch.count_nonzero(mask) for mask in found]
    return connections - total(kept, device or kept[0].device), connections


def sparsity(masks: Masks) -> Tensor:
    r"""Return the share of connections that the masks prune.

    .. math:: s = \frac{\sum_l |\{i : m_{l,i} = 0\}|}{\sum_l N_l}

    with :math:`m_l` the mask of target :math:`l` and :math:`N_l` its number of connections.

    Args:
        masks: bool tensors of any shape, True = kept: a mapping name -> mask, an iterable, or one mask.

    Returns:
        Zero-dimensional float64 in [0, 1], on the masks' device.

    Raises:
        TypeError: an entry is not a bool tensor.
        ValueError: there are no masks, or no mask has any entries.

    Example:
        >>> import torch
        >>> sparsity({"fc.weight": torch.tensor([[True, False], [False, False]])}).item()
        0.75

    Source: Zhu and Gupta, "To prune, or not to prune", 2017, where :math:`s_t` is this share.
    """
    pruned, connections = _count(masks)
    return exact(pruned) / connections


class Sparsity(Metric):
    r"""Computes the share of connections that masks prune, over all updates.

    .. math:: s = \frac{\sum_l |\{i : m_{l,i} = 0\}|}{\sum_l N_l}

    ``update`` takes ``masks``: bool tensors of any shape, True = kept, as a mapping name -> mask, an
    iterable, or one mask. It counts on the device without synchronizing it. ``compute`` returns a zero-
    dimensional float64 in [0, 1]. Counts are summed over updates and ranks, so the result is right both
    for equal masks on all ranks and for sharded masks.

    Args:
        **kwargs: settings of every torchmetrics metric, such as ``dist_sync_on_step``.

    Raises:
        TypeError: at ``update``, an entry is not a bool tensor.
        ValueError: at ``update``, there are no masks, or no mask has any entries.

    Example:
        >>> import torch
        >>> metric = Sparsity()
        >>> metric.update({"fc.weight": torch.tensor([[True, False], [False, False]])})
        >>> metric.compute().item()
        0.75

    Source: Zhu and Gupta, "To prune, or not to prune", 2017, where :math:`s_t` is this share.
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    pruned: Tensor
    connections: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("pruned", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("connections", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, masks: Masks) -> None:
        """Add the counts of ``masks`` (True = kept)."""
        pruned, connections = _count(masks, self.pruned.device)
        self.pruned += pruned
        self.connections += connections

    def compute(self) -> Tensor:
        """Return the share of pruned connections over all updates, float64."""
        return exact(self.pruned) / self.connections
