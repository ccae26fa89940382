"""Prune models at random, for measurements that depend only on widths and on the positions of zeros."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn

from lightning_dynprune.coupling import Group, Narrowing
from lightning_dynprune.patterns import NM, TargetPattern
from lightning_dynprune.targets import Target

_NUM_BISECTIONS = 30  # of the share of channels; beyond the precision of float32


@torch.no_grad()
def randomly_pruned(
    model: nn.Module, pattern: TargetPattern, targets: Sequence[Target], sparsity: float, seed: int = 0
) -> nn.Module:
    """Return a copy of a model in which the same share of every target's units, drawn at random, is zero.

    Args:
        model: the network.
        pattern: pattern of the units; one that acts on each target separately.
        targets: the model's prunable parameters.
        sparsity: share of the units; ignored where the pattern fixes it.
        seed: seed of the random draw.

    Example:
        >>> from lightning_dynprune.patterns import Block
        >>> from lightning_dynprune.targets import find_targets
        >>> net = nn.Linear(10, 64)
        >>> zeros = randomly_pruned(net, Block(32, 1), find_targets(net), 0.8).weight == 0
        >>> int(zeros.sum()), sorted(zeros.view(2, 32, 10).sum(1).unique().tolist())
        (512, [0, 32])
    """
    pruned = copy.deepcopy(model)
    parameters = dict(pruned.named_parameters())
    generator = torch.Generator().manual_seed(seed)
    for target in targets:
        scores = torch.rand(target.parameter.shape, generator=generator).to(target.parameter.device)
        scores = pattern.pool(target, scores).reshape(-1)
        if isinstance(pattern, NM):
            keep = pattern.protected_units(target, scores, None)
            assert keep is not None
        else:
            keep = torch.zeros_like(scores, dtype=torch.bool)
            keep[scores.topk(len(scores) - round(sparsity * len(scores))).indices] = True
        parameter = parameters[target.name]
        parameter.copy_(torch.where(pattern.expand(target, keep), parameter, 0.0))
    return pruned


class RandomlyNarrowed:
    """Make copies of a model without some random channels, as many of each group as a sparsity needs.

    Args:
        model: the network.
        groups: groups of channels, see :func:`~lightning_dynprune.coupling.coupled_groups`.
        targets: the parameters whose connections the sparsity counts; groups that none of them produces are kept whole.
    """

    def __init__(self, model: nn.Module, groups: Sequence[Group], targets: Sequence[Target]) -> None:
        names = {target.name for target in targets}
        self.model = model
        self.targets = targets
        self.groups = [group for group in groups if group.name in names]
        self._read: dict[tuple[str, int], list[tuple[int, int]]] = {}
        for number, group in enumerate(self.groups):
            for axis in group.axes:
                self._read.setdefault((axis.name, axis.dim), []).append((number, axis.index.shape[1]))

    @property
    def most(self) -> float:
        """The largest possible sparsity: one channel left in every group."""
        return self._sparsity([1] * len(self.groups))

    def at(self, sparsity: float, seed: int = 0) -> nn.Module:
        """Return a narrow copy with a sparsity.

        Raises:
            ValueError: the sparsity cannot be reached.
        """
        if not self.groups or sparsity > self.most:
            raise ValueError(f"whole channels reach a sparsity of {self.most:.2f} at most in this model")
        low, high = 0.0, 1.0
        for _ in range(_NUM_BISECTIONS):
            share = (low + high) / 2
            low, high = (share, high) if self._sparsity(self._kept(share)) < sparsity else (low, share)
        generator = torch.Generator().manual_seed(seed)
        narrow = copy.deepcopy(self.model)
        alive = []
        for group, count in zip(self.groups, self._kept(high), strict=True):
            chosen = torch.randperm(group.units, generator=generator)[:count]
            alive.append(torch.zeros(group.units, dtype=torch.bool).index_fill_(0, chosen, True))
        Narrowing(narrow).narrow(self.groups, alive)
        return narrow

    def _kept(self, share: float) -> list[int]:
        """Return how many units of each group remain when a share of them is removed."""
        return [max(1, group.units - round(share * group.units)) for group in self.groups]

    def _sparsity(self, kept: Sequence[int]) -> float:
        """Return the share of connections removed when ``kept`` units of each group remain."""
        left = 0
        for target in self.targets:
            sizes = list(target.parameter.shape)
            for dim in range(len(sizes)):
                for number, width in self._read.get((target.name, dim), ()):
                    sizes[dim] -= width * (self.groups[number].units - kept[number])
            left += int(torch.tensor(sizes).prod())
        return 1 - left / max(1, sum(target.numel for target in self.targets))
