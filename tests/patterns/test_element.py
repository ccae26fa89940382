"""Single connections as units."""

from __future__ import annotations

import torch
from torch import nn

from lightning_dynprune.engine import Pruner
from lightning_dynprune.patterns import Element, TargetPattern
from lightning_dynprune.targets import Target


def test_element_pools_and_expands_in_flat_order():
    target = Target("w", nn.Parameter(torch.zeros(2, 3)))
    scores = torch.arange(6.0).view(2, 3)
    assert Element().pool(target, scores).tolist() == [0, 1, 2, 3, 4, 5]
    keep = torch.tensor([True, False, True, False, False, True])
    assert Element().expand(target, keep).tolist() == [[True, False, True], [False, False, True]]


def test_a_pattern_of_larger_units_is_cut_and_written_whole():
    class Row(TargetPattern):
        def unit_size(self, target):
            return target.parameter.shape[1]

        def pool(self, target, scores):
            return scores.sum(1)

        def expand(self, target, keep):
            return keep[:, None].expand(target.parameter.shape)

    net = nn.Linear(3, 4, bias=False)
    net.weight.data = torch.tensor([[1.0, 1, 1], [4, 4, 4], [2, 2, 2], [9, -9, 9]])
    pruner = Pruner(
        net,
        sparsity=0.75,
        pattern=Row(),
        strategy="magnitude",
        schedule={"name": "linear", "begin": 1, "end": 3, "every": 1, "initial": 0.25},
    )
    rows = []
    for _ in range(3):
        pruner.tick()
        rows.append(pruner.masks.tensors[0].all(1).tolist())
    assert rows == [[False, True, True, True], [False, True, False, True], [False, False, False, True]]
    assert pruner.sparsity == 0.75
