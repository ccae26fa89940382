"""Runs of random updates, recorded, and the masks after each as an independent record."""

from __future__ import annotations

import torch
from torch import nn

from lightning_dynprune.journal import Journal, Update
from lightning_dynprune.masks import MaskSet
from lightning_dynprune.targets import Target


def mask_set(*weights: torch.Tensor) -> MaskSet:
    return MaskSet([Target(name, nn.Parameter(weight)) for name, weight in zip("abcdefghijkl", weights, strict=False)])


def update_to(journal: Journal, step: int, after: list[torch.Tensor]) -> Update:
    """Write masks and record it, as a pruner does."""
    masks, total = journal.masks, journal.masks.total
    before = [mask.clone() for mask in masks.tensors]
    changes = [masks.write(position, [keep.reshape(-1)]) for position, keep in enumerate(after)]
    names = [target.name for target in masks.targets]
    dropped = {name: change[0] for name, change in zip(names, changes, strict=True)}
    grown = {name: change[1] for name, change in zip(names, changes, strict=True)}
    churn = sum(map(sum, changes)) / total
    update = Update(step, masks.sparsity, masks.sparsity, dropped, grown, churn, dict.fromkeys(names, 0.5))
    weights = [target.parameter for target in masks.targets]
    journal.add(update, [journal.delta(*each) for each in zip(before, masks.tensors, weights, strict=True)])
    masks.apply()
    return update


def random_run(journal: Journal, steps: list[int], flips: float, seed: int = 0) -> dict[int, list[torch.Tensor]]:
    """Return the masks after each step's last update; every weight gets a new value before each update."""
    generator = torch.Generator().manual_seed(seed)
    history = {}
    for step in steps:
        after = []
        for target, mask in zip(journal.masks.targets, journal.masks.tensors, strict=True):
            with torch.no_grad():
                target.parameter.copy_(torch.randn(target.parameter.shape, generator=generator))
            after.append(mask ^ (torch.rand(mask.shape, generator=generator) < flips))
        update_to(journal, step, after)
        history[step] = [mask.clone() for mask in journal.masks.tensors]
    return history
