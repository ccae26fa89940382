"""Churn: the share of mask entries that changed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_dynprune.metrics.counting import Masks, exact, named_masks, total


def _count(before: Masks, after: Masks, device: torch.device | None = None) -> tuple[Tensor, int]:
    old, new = named_masks(before, "before"), named_masks(after, "after")
    if old.keys() != new.keys():
        raise ValueError(f"before has masks {sorted(old)} and after has {sorted(new)}; give both for the same targets")
    for name, mask in old.items():
        if mask.shape != new[name].shape:
            raise ValueError(
                f"before[{name!r}] has shape {tuple(mask.shape)} and after[{name!r}] "
                f"{tuple(new[name].shape)}; give both in one shape"
            )
    flipped = [torch.count_nonzero(mask ^ new[name]) for name, mask in old.items()]
    return total(flipped, device or flipped[0].device), sum(mask.numel() for mask in old.values())


def churn(before: Masks, after: Masks) -> Tensor:
    r"""Return the share of mask entries that differ between two sets of masks.

    .. math:: c = \frac{\sum_l |\{i : m_{l,i} \ne m'_{l,i}\}|}{\sum_l N_l}

    with :math:`m_l` and :math:`m'_l` the mask of target :math:`l` before and after an update.

    Args:
        before: bool tensors, True = kept: a mapping name -> mask, an iterable, or one mask.
        after: the same targets in the same shapes.

    Returns:
        Zero-dimensional float64 in [0, 1], on the masks' device.

    Raises:
        TypeError: an entry is not a bool tensor.
        ValueError: there are no masks, no mask has any entries, or names or shapes differ.

    Example:
        >>> import torch
        >>> before, after = torch.tensor([True, True, False, False]), torch.tensor([True, False, True, False])
        >>> churn(before, after).item()
        0.5

    Source: this package; a dropped and a grown connection count as one change each.
    """
    flipped, connections = _count(before, after)
    return exact(flipped) / connections


class Churn(Metric):
    r"""Computes the share of mask entries that changed, over all updates.

    .. math:: c = \frac{\sum_l |\{i : m_{l,i} \ne m'_{l,i}\}|}{\sum_l N_l}

    ``update`` takes ``before`` and ``after``: bool tensors, True = kept, of the same targets in the same
    shapes, as mappings name -> mask, iterables, or one mask. ``compute`` returns a zero-dimensional
    float64 in [0, 1]; over several updates of the same targets it is their mean. It is meant for masks of
    your own; :class:`~lightning_dynprune.DynamicPruning` logs the churn of its updates as ``dynprune/churn``.

    Args:
        **kwargs: settings of every torchmetrics metric, such as ``dist_sync_on_step``.

    Raises:
        TypeError: at ``update``, an entry is not a bool tensor.
        ValueError: at ``update``, there are no masks, no mask has any entries, or names or shapes differ.

    Example:
        >>> import torch
        >>> metric = Churn()
        >>> metric.update(torch.tensor([True, True, False, False]), torch.tensor([True, False, True, False]))
        >>> metric.compute().item()
        0.5

    Source: this package; a dropped and a grown connection count as one change each.
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    flipped: Tensor
    connections: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("flipped", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("connections", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, before: Masks, after: Masks) -> None:
        """Add the number of entries that differ between ``before`` and ``after``."""
        flipped, connections = _count(before, after, self.flipped.device)
        self.flipped += flipped
        self.connections += connections

    def compute(self) -> Tensor:
        """Return the share of changed entries over all updates, float64."""
        return exact(self.flipped) / self.connections
