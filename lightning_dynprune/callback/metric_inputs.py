"""Inputs of the logged metrics; placeholders where parameters are sharded."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lightning_dynprune.distributed import local_part, owned_here
from lightning_dynprune.engine import Pruner


def sparsity_inputs(pruner: Pruner, masks: Mapping[str, Tensor]) -> list[Mapping[str, Tensor]]:
    """Return masks with as many kept and pruned connections as the run has, none of them empty.

    Expanded views of a single bool stand for connections that were slimmed away, and for sharded masks.

    Args:
        pruner: of the run.
        masks: by target, as they are in this process.
    """
    targets, original, kept = pruner.targets, pruner.masks.original_numel, pruner.masks.kept
    if pruner.masks.shard_ranks is None:
        pruned = {t.name: _repeated(False, n - t.numel) for t, n in zip(targets, original, strict=True)}
    else:
        masks = {t.name: _repeated(True, k) for t, k in zip(targets, kept, strict=True)}
        pruned = {t.name: _repeated(False, n - k) for t, n, k in zip(targets, original, kept, strict=True)}
    return [counted for counted in (masks, pruned) if any(mask.numel() for mask in counted.values())]


def compression_inputs(module: nn.Module, pruner: Pruner, removed: int) -> list[list[Tensor]]:
    """Return tensors with as many entries, and as many zeros among them, as a module's parameters.

    Args:
        module: the network.
        pruner: of the run; all its processes call this.
        removed: entries that slimming took out of the parameters; they count as zeros.
    """
    inputs = [_parameter_inputs(list(module.parameters()), pruner)]
    return [*inputs, [torch.zeros(1).expand(removed)]] if removed else inputs


def _parameter_inputs(parameters: list[nn.Parameter], pruner: Pruner) -> list[Tensor]:
    if pruner.masks.shard_ranks is None:
        return list(parameters)
    counts = torch.zeros(2, dtype=torch.int64)
    for parameter, is_owner in zip(parameters, owned_here(parameters, pruner.ranks), strict=True):
        if is_owner:
            part = local_part(parameter)
            nonzero = int(torch.count_nonzero(part))
            counts += torch.tensor([nonzero, part.numel() - nonzero])
    nonzero, zero = pruner.ranks.sum(counts).tolist()
    return [_repeated(True, nonzero), _repeated(False, zero)]


def _repeated(value: bool, count: int) -> Tensor:
    return torch.full((1,), value).expand(count)
