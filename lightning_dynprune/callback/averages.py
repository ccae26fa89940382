"""Averages of the weights, kept by other callbacks: what is pruned is zero in them too."""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from lightning_dynprune.engine import Pruner


def averages_of(callbacks: Iterable[Any]) -> list[nn.Module]:
    """Return the averaged models that Lightning's SWA, its ``WeightAveraging`` and what extends them keep.

    Args:
        callbacks: of a Trainer, after their ``setup``.
    """
    kept = [getattr(callback, "_average_model", None) for callback in callbacks]
    averages = [model.module if isinstance(model, AveragedModel) else model for model in kept]
    return [model for model in averages if isinstance(model, nn.Module)]


@torch.no_grad()
def mask_average(average: nn.Module, pruner: Pruner) -> None:
    """Set what is pruned to +0.0 in an average too, in place.

    An average goes back to before a connection was pruned, so it is not zero by itself. Masked at every update it stays
    zero, as all that is averaged in is; a connection that returns is averaged from zero on.

    Args:
        average: a copy of the pruner's model.
        pruner: knows what is pruned.
    """
    for target, mask, kept in zip(pruner.targets, pruner.masks.tensors, pruner.masks.kept, strict=True):
        if kept < target.numel:
            values = attrgetter(target.name)(average)
            values.masked_fill_(mask.logical_not().to(values.device), 0.0)
    for member in [] if pruner.units is None else pruner.units.members:
        if member.any_pruned:
            values = attrgetter(member.axis.name)(average)
            values.masked_fill_(member.along(member.pruned).to(values.device), 0.0)
