"""Averaged weights of other callbacks: zero wherever the model is pruned."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import torch
from torch import nn

from lightning_dynprune.callback.compat import averaged_model, callbacks_of
from lightning_dynprune.engine import Pruner


class AverageMasker:
    """Sets pruned entries to zero in the averages that other callbacks keep, once after each update."""

    def __init__(self) -> None:
        self._masked_updates = -1

    def reset(self) -> None:
        """Mask the averages again at the next call, as there may be new ones."""
        self._masked_updates = -1

    def mask(self, trainer: Any, pruner: Pruner) -> None:
        """Mask every average if the masks were updated since the last call.

        Args:
            trainer: whose callbacks keep averages.
            pruner: of the model that is averaged.
        """
        if self._masked_updates == pruner.updates:
            return
        self._masked_updates = pruner.updates
        with pruner.hold_errors():
            for callback in callbacks_of(trainer):
                if (average := averaged_model(callback)) is not None:
                    mask_average(average, pruner)


@torch.no_grad()
def mask_average(average: nn.Module, pruner: Pruner) -> None:
    """Set pruned entries of an average to +0.0, in place.

    The average includes weights from before a connection was pruned, so it is not zero by itself. Once masked it stays
    zero, as every weight averaged in later is zero; a connection that returns is averaged from zero on.

    Args:
        average: a copy of the pruner's model.
        pruner: holds the masks.
    """
    for target, mask, kept in zip(pruner.targets, pruner.masks.tensors, pruner.masks.kept, strict=True):
        if kept < target.numel:
            values = attrgetter(target.name)(average)
            values.masked_fill_(mask.logical_not().to(values.device), 0.0)
    for member in [] if pruner.units is None else pruner.units.members:
        if member.any_pruned:
            values = attrgetter(member.axis.name)(average)
            values.masked_fill_(member.along(member.pruned).to(values.device), 0.0)
