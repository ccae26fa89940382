"""An optimizer that takes the place of those of the pruner is noticed; wrappers and optimizers of others are not."""

from __future__ import annotations

import copy
import gc
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.optimizer import _global_optimizer_pre_hooks

from lightning_dynprune.engine import Pruner
from tests.conformance.loop import same

EACH = {"name": "constant", "begin": 1, "end": 100, "every": 1}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 4))


def sgd(net: nn.Module, **settings: Any) -> torch.optim.SGD:
    return torch.optim.SGD(net.parameters(), lr=0.1, **settings)


def begun(net: nn.Module, optimizers: Any, strategy: str = "magnitude") -> Pruner:
    return Pruner(net, optimizers, sparsity=0.5, strategy=strategy, schedule=EACH)


def step(net: nn.Module, *optimizers: torch.optim.Optimizer) -> None:
    net.zero_grad()
    net(torch.ones(3, 6)).square().sum().backward()
    for optimizer in optimizers:
        optimizer.step()


@pytest.mark.parametrize("strategy", ["magnitude", "taylor", "straight_through"])
def test_another_optimizer_is_refused_at_the_next_tick_and_pruned_entries_stay_zero(strategy):
    net = network()
    optimizer = sgd(net, momentum=0.9)
    pruner = begun(net, optimizer, strategy)
    step(net, optimizer)
    pruner.tick()
    before = pruner.state_dict()

    other = torch.optim.Adam(net.parameters())
    step(net, other)
    with pytest.raises(RuntimeError, match=r"Adam has stepped 0\.weight.*while SGD, which it was given, has not") as e:
        pruner.tick()
    assert "Give the pruner every optimizer that trains a target" in str(e.value)
    assert pruner.clock.step == 1
    for target, mask in zip(pruner.targets, pruner.masks.tensors, strict=True):
        assert not target.parameter[~mask].any()
    assert same(pruner.state_dict(), before)

    # As the message says.
    state = pruner.state_dict()
    pruner.close()
    pruner = begun(net, other, strategy)
    pruner.load_state_dict(state)
    step(net, other)
    pruner.tick()
    assert pruner.clock.step == 2
    for target, mask in zip(pruner.targets, pruner.masks.tensors, strict=True):
        assert torch.equal(target.parameter != 0, mask)


def test_one_of_two_optimizers_that_was_replaced_is_noticed_though_the_other_steps_on():
    net = network()
    first, second = sgd(net[0]), sgd(net[2])
    pruner = begun(net, [first, second])
    step(net, first, second)
    pruner.tick()
    step(net, torch.optim.AdamW(net[0].parameters()), second)
    with pytest.raises(RuntimeError, match=r"AdamW has stepped 0\.weight and is"):
        pruner.tick()


class Lookahead(torch.optim.Optimizer):
    """Wraps an optimizer, whose groups it shares, and steps it."""

    def __init__(self, inner: torch.optim.Optimizer, share: bool) -> None:
        groups = inner.param_groups if share else [{"params": [p for g in inner.param_groups for p in g["params"]]}]
        super().__init__(groups, {})
        self.inner = inner
        if share:
            self.param_groups = inner.param_groups

    def step(self, closure: Any = None) -> None:
        self.inner.step(closure)

    def second_step(self) -> None:
        self.inner.step()


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("given", ["outer", "inner"])
@pytest.mark.parametrize("call", ["step", "second_step"])
def test_a_wrapper_and_the_optimizer_in_it_are_one(share, given, call):
    net = network()
    inner = sgd(net)
    outer = Lookahead(inner, share)
    pruner = begun(net, outer if given == "outer" else inner)
    for _ in range(3):
        step(net)
        getattr(outer, call)()
        pruner.tick()
    assert pruner.clock.step == 3


def test_optimizers_of_other_parameters_and_trials_before_the_training_are_no_replacement():
    net, head = network(), nn.Linear(2, 2)
    optimizer, other = sgd(net), sgd(head)
    pruner = begun(net, optimizer)
    step(net, sgd(net))  # as a search for a learning rate does
    step(net, optimizer)
    pruner.tick()
    for parameter in head.parameters():
        parameter.grad = torch.ones_like(parameter)
    for _ in range(2):
        other.step()
        pruner.tick()  # as after a step that a gradient scaler skipped
    other.add_param_group({"params": [net[2].weight]})
    net.zero_grad()
    other.step()
    with pytest.raises(RuntimeError, match=r"SGD has stepped 2\.weight"):
        pruner.tick()


def test_an_optimizer_that_was_never_given_may_train_what_no_given_one_trains():
    net = network()
    first, second = sgd(net[0]), sgd(net[2])
    pruner = begun(net, first)
    for _ in range(3):
        step(net, first, second)
        pruner.tick()
    assert pruner.clock.step == 3


def test_a_pruner_without_optimizers_follows_any():
    net = network()
    pruner = begun(net, None)
    for _ in range(3):
        step(net, sgd(net))
        pruner.tick()
    assert pruner.clock.step == 3


def test_no_hook_stays_when_pruners_are_closed_or_gone():
    gc.collect()
    count = len(_global_optimizer_pre_hooks)
    net = network()
    pruner = begun(net, sgd(net))
    twin = copy.deepcopy(pruner)
    other = network()
    second = begun(other, sgd(other))
    assert len(_global_optimizer_pre_hooks) <= count + 1
    pruner.close()
    twin.close()
    del second
    gc.collect()
    net = network()
    begun(net, sgd(net)).close()
    assert len(_global_optimizer_pre_hooks) <= count
