"""Straight-through: weights train on behind the mask."""

from __future__ import annotations

import torch
from torch import nn

from lightning_dynprune.engine import Pruner
from tests.strategies.literal import EACH_STEP, Layer


def test_the_largest_latent_weights_live_and_the_others_wait_with_their_values():
    layer = Layer([1.0, -2.0, 3.0, -4.0], lr=1.0, sparsity=0.5, strategy="straight_through", schedule=EACH_STEP)
    layer.step()
    assert layer.weight == [0.0, 0.0, 3.0, -4.0]
    assert layer.state("latent") == [1.0, -2.0, 0.0, 0.0]
    # Behind the mask 1 becomes 0.5 and -2 becomes -3.5, which outgrows 3.
    layer.step([0.5, 1.5, 0.0, 0.0])
    assert layer.weight == [0.0, -3.5, 0.0, -4.0]
    assert layer.state("latent") == [0.5, 0.0, 3.0, 0.0]
    update = layer.pruner.last_update
    assert (update.dropped["weight"], update.grown["weight"], update.churn) == (1, 1, 0.5)


def test_the_forward_pass_sees_the_living_and_the_gradient_reaches_all():
    net = nn.Linear(3, 1, bias=False)
    net.weight.data = torch.tensor([[1.0, 2.0, 3.0]])
    sgd = torch.optim.SGD(net.parameters(), lr=1.0)
    pruner = Pruner(net, sgd, sparsity=0.67, strategy="straight_through", schedule={"name": "one_shot", "begin": 1})
    net.weight.grad = torch.zeros(1, 3)
    sgd.step()
    pruner.tick()
    sgd.zero_grad()
    loss = net(torch.tensor([[10.0, 20.0, 30.0]])).sum()
    assert loss.item() == 90.0
    loss.backward()
    assert net.weight.grad.tolist() == [[10.0, 20.0, 30.0]]
    sgd.step()
    pruner.tick()
    assert net.weight.tolist() == [[0.0, 0.0, -27.0]]
    assert pruner.targets[0].state["latent"].tolist() == [[-9.0, -18.0, 0.0]]
