"""SNIP: one cut by the first gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_dynprune.engine import Pruner
from tests.strategies.literal import Layer


def test_the_first_gradient_decides_before_the_first_step():
    layer = Layer([1.0, -2.0, 3.0, -4.0], lr=1.0, sparsity=0.5, strategy="snip")
    # |w g| is 4, 1, 3 and 0.4; what stays has stepped, what went has not.
    assert layer.step([4.0, 0.5, -1.0, 0.1]) is None
    assert layer.mask == [True, False, True, False]
    assert layer.weight == [-3.0, 0.0, 4.0, 0.0]
    assert layer.pruner.last_update.step == 0
    assert layer.pruner.last_update.cuts == {"weight": 3.0}


def test_it_prunes_once():
    layer = Layer([1.0, -2.0, 3.0, -4.0], lr=1.0, sparsity=0.5, strategy="snip")
    layer.step([4.0, 0.5, -1.0, 0.1])
    for _ in range(5):
        layer.step([0.0, 100.0, 0.0, 100.0])
    assert layer.pruner.updates == 1
    assert layer.weight == [-3.0, 0.0, 4.0, 0.0]


def test_one_cut_over_all_targets():
    net = nn.Sequential(nn.Linear(2, 1, bias=False), nn.Linear(2, 1, bias=False))
    net[0].weight.data, net[1].weight.data = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 0.5]])
    sgd = torch.optim.SGD(net.parameters(), lr=0.0)
    pruner = Pruner(net, sgd, sparsity=0.5, strategy="snip")
    net[0].weight.grad, net[1].weight.grad = torch.tensor([[0.1, 0.1]]), torch.tensor([[1.0, 9.0]])
    sgd.step()
    # 0.1 and 0.2 against 3 and 4.5: one cut would empty the first target, which keeps its best one.
    assert [m.tolist() for m in pruner.masks.tensors] == [[[False, True]], [[False, True]]]


def test_without_a_gradient_it_refuses_by_name():
    net = nn.Linear(2, 1)
    with pytest.raises(RuntimeError, match="weight has no gradient at this update"):
        Pruner(net, sparsity=0.5, strategy="snip").tick()
