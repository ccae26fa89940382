"""What a metric counts of a run: its masks and parameters, or stand-ins where a process does not hold them all."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lightning_dynprune.distributed import local_part, owned_here
from lightning_dynprune.engine import Pruner


def masks_to_count(pruner: Pruner, masks: Mapping[str, Tensor]) -> list[Mapping[str, Tensor]]:
    """Return masks that together count as those of a run, none of them without entries.

    Views of a single bool stand for what was slimmed away, and for masks that several processes hold in parts.

    Args:
        pruner: of the run.
        masks: by target, as they are here.
    """
    targets, whole, kept = pruner.targets, pruner.masks.original_numel, pruner.masks.kept
    if pruner.masks.shard_ranks is None:
        pruned = {t.name: _many(False, n - t.numel) for t, n in zip(targets, whole, strict=True)}
    else:
        masks = {t.name: _many(True, k) for t, k in zip(targets, kept, strict=True)}
        pruned = {t.name: _many(False, n - k) for t, n, k in zip(targets, whole, kept, strict=True)}
    return [counted for counted in (masks, pruned) if any(mask.numel() for mask in counted.values())]


def parameters_to_count(module: nn.Module, pruner: Pruner) -> list[Tensor]:
    """Return tensors with as many entries, and as many of them zero, as a module's parameters have.

    Args:
        module: the network.
        pruner: of its run; all its processes call this.
    """
    parameters = list(module.parameters())
    if pruner.masks.shard_ranks is None:
        return list(parameters)
    counts = torch.zeros(2, dtype=torch.int64)
    for parameter, is_owner in zip(parameters, owned_here(parameters, pruner.ranks), strict=True):
        if is_owner:
            part = local_part(parameter)
            nonzero = int(torch.count_nonzero(part))
            counts += torch.tensor([nonzero, part.numel() - nonzero])
    nonzero, zero = pruner.ranks.sum(counts).tolist()
    return [_many(True, nonzero), _many(False, zero)]


def _many(value: bool, count: int) -> Tensor:
    return torch.full((1,), value).expand(count)
