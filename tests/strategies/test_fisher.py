"""Fisher reads the optimizer's own average of squared gradients, on numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_dynprune import Pruner
from lightning_dynprune.masks import squared_gradients

LINEAR = {"name": "one_shot", "begin": 1}
OPTIMIZERS = {
    "Adam": (torch.optim.Adam, {"betas": (0.9, 0.75)}, 0.25),
    "AdamW": (torch.optim.AdamW, {"betas": (0.9, 0.75)}, 0.25),
    "NAdam": (torch.optim.NAdam, {"betas": (0.9, 0.75)}, 0.25),
    "RAdam": (torch.optim.RAdam, {"betas": (0.9, 0.75)}, 0.25),
    "RMSprop": (torch.optim.RMSprop, {"alpha": 0.75}, 0.25),
    "Adagrad": (torch.optim.Adagrad, {}, 1.0),
}


def layer() -> nn.Linear:
    net = nn.Linear(4, 1, bias=False)
    net.weight.data = torch.tensor([[4.0, 1.0, 3.0, 2.0]])
    return net


@pytest.mark.parametrize(("kind", "settings", "share"), OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_the_average_of_each_optimizer_is_found(kind, settings, share):
    net = layer()
    optimizer = kind(net.parameters(), lr=0.0, **settings)
    assert squared_gradients([optimizer], net.weight) is None or kind is torch.optim.Adagrad
    net.weight.grad = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    optimizer.step()
    assert squared_gradients([optimizer], net.weight).tolist() == [[share, 4 * share, 9 * share, 16 * share]]


def test_connections_with_the_least_squared_weight_times_average_are_pruned():
    net = layer()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.0)
    pruner = Pruner(net, optimizer, sparsity=0.5, strategy="fisher", schedule=LINEAR, total_steps=4)
    net.weight.grad = torch.tensor([[0.25, 4.0, 0.5, 2.0]])
    optimizer.step()
    pruner.tick()
    # w^2 g^2 is 1, 16, 2.25 and 16: magnitude would keep the first and the third.
    assert net.weight.tolist() == [[0.0, 1.0, 0.0, 2.0]]


@pytest.mark.parametrize("optimizer", ["SGD", "none"])
def test_an_optimizer_that_keeps_no_average_is_refused_by_name(optimizer):
    net = layer()
    given = None if optimizer == "none" else torch.optim.SGD(net.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=rf"Fisher reads .*Adagrad keep; optimizer={optimizer} keeps none for"):
        Pruner(net, given, sparsity=0.5, strategy="fisher", total_steps=4)


def test_an_update_before_the_first_step_is_refused():
    net = layer()
    optimizer = torch.optim.Adam(net.parameters())
    with pytest.raises(ValueError, match="averages that exist after the first step, and the schedule begins at 0"):
        Pruner(
            net, optimizer, sparsity=0.5, strategy="fisher", schedule={"name": "one_shot", "begin": 0}, total_steps=4
        )


def test_a_target_that_was_never_stepped_is_named_at_the_update():
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    optimizer = torch.optim.Adam(net.parameters())
    pruner = Pruner(net, optimizer, sparsity=0.5, strategy="fisher", schedule=LINEAR, total_steps=4)
    net[0](torch.ones(1, 2)).sum().backward()
    optimizer.step()
    before = net[1].weight.clone()
    with pytest.raises(RuntimeError, match=r"1\.weight: its optimizer keeps no running average of squared"):
        pruner.tick()
    assert torch.equal(net[1].weight, before)
