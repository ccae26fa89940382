"""A check that the units of a pattern add up to the connections of each target."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_dynprune.patterns.base import TargetPattern
from lightning_dynprune.targets import Target


@torch.no_grad()
def check_units(targets: Sequence[Target], pattern: TargetPattern) -> None:
    """Raise where the units of a pattern do not have the sizes that it states, by which sparsity is counted.

    Args:
        targets: of the run.
        pattern: the units.

    Raises:
        ValueError: naming the target, the units found and what is accepted.
    """
    for target in targets:
        if target.shard is not None:  # a pattern of whole targets is refused where they are sharded
            continue
        size, uncovered = pattern.unit_size(target), pattern.num_uncovered(target)
        try:
            units = pattern.pool(target, target.parameter.detach()).numel()
            # One draw may hit as many large units as small ones.
            keeps = [_draw(units, seed).to(target.parameter.device) for seed in range(4)]
            masks = [pattern.expand(target, keep) for keep in keeps]
        except (RuntimeError, ValueError, IndexError) as error:
            shape = tuple(target.parameter.shape)
            raise ValueError(
                f"pattern {pattern.label} cannot pool or expand {target.name} of shape {shape}: {error}; exclude it, "
                "or correct the pattern"
            ) from error
        if units * size + uncovered != target.numel:
            raise ValueError(
                f"pattern {pattern.label}: {target.name} has {target.numel} connections, but pool returns {units} "
                f"units of {size} and {uncovered} connections are in none; return the connections of a unit from size, "
                "or from unit_size(target) where it differs between targets, and the others from num_uncovered(target)"
            )
        for keep, mask in zip(keeps, masks, strict=True):
            if mask.shape != target.parameter.shape or mask.dtype != torch.bool:
                raise ValueError(
                    f"pattern {pattern.label}: expand returns {mask.dtype} of shape {tuple(mask.shape)} for "
                    f"{target.name}; return torch.bool of shape {tuple(target.parameter.shape)}"
                )
            if int(mask.sum()) != int(keep.sum()) * size + uncovered:
                raise ValueError(
                    f"pattern {pattern.label}: expand keeps {int(mask.sum())} connections of {target.name} for "
                    f"{int(keep.sum())} units of {size} and {uncovered} connections in none; all units of a target "
                    "need the same size"
                )


def _draw(units: int, seed: int) -> Tensor:
    return torch.rand(units, generator=torch.Generator().manual_seed(seed)) < 0.5
