"""Wrappers that only pass on are looked into; what does more at a step is not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_dynprune.engine import Pruner
from lightning_dynprune.targets import unwrapped_model, unwrapped_optimizers


class PassesOn(torch.optim.Optimizer):
    """Has all that it has from the optimizer inside, as Accelerate's and Fabric's wrappers do."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    def __getattr__(self, name):
        return getattr(self.optimizer, name)

    def step(self, closure=None):
        return self.optimizer.step(closure)


class Lookahead(torch.optim.Optimizer):
    """Steps another optimizer, and then moves the weights itself."""

    def __init__(self, optimizer):
        super().__init__(optimizer.param_groups, {})
        self.optimizer = optimizer

    @torch.no_grad()
    def step(self, closure=None):
        before = [p.clone() for p in self.param_groups[0]["params"]]
        self.optimizer.step()
        for parameter, old in zip(self.param_groups[0]["params"], before, strict=True):
            parameter.lerp_(old + 1.0, 0.5)


def test_an_optimizer_is_found_under_any_number_of_wrappers_that_pass_on():
    sgd = torch.optim.SGD(nn.Linear(2, 2).parameters())
    assert unwrapped_optimizers([PassesOn(PassesOn(sgd)), sgd]) == [sgd, sgd]
    assert unwrapped_optimizers(None) == []


@pytest.mark.parametrize("wrapper", [PassesOn, Lookahead])
@pytest.mark.parametrize("strategy", ["taylor", "straight_through"])
def test_pruned_entries_are_zero_whatever_steps(strategy, wrapper):
    torch.manual_seed(0)
    net = nn.Linear(8, 8)
    optimizer = wrapper(torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9))
    pruner = Pruner(net, optimizer, sparsity=0.5, strategy=strategy, schedule={"name": "one_shot", "begin": 2})
    for _ in range(4):
        net.zero_grad()
        net(torch.randn(4, 8)).square().sum().backward()
        optimizer.step()
        pruner.tick()
    assert int((net.weight == 0).sum()) == 32
    if strategy == "straight_through":
        assert pruner.targets[0].state["latent"].count_nonzero() == 32


@pytest.mark.parametrize("given", [3, "sgd", [nn.Linear(2, 2)], {"lr": 0.1}])
def test_an_optimizer_of_another_library_is_refused_in_words(given):
    with pytest.raises(TypeError, match=r"optimizer=\w+ is not accepted; give a torch\.optim\.Optimizer"):
        Pruner(nn.Linear(2, 2), given, sparsity=0.5, total_steps=4)


def test_the_names_of_a_compiled_module_are_those_of_the_module():
    net = nn.Sequential(nn.Linear(4, 4))
    pruner = Pruner(torch.compile(net, backend="eager"), sparsity=0.5, strategy="magnitude", total_steps=4)
    assert [target.name for target in pruner.targets] == ["0.weight"]
    assert pruner.model is net


def test_a_module_that_a_user_named_module_is_no_wrapper():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = nn.Linear(4, 4)

    named = Named()
    assert unwrapped_model(named) is named
