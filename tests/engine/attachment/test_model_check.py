"""A layer or parameter replaced in mid-run is noticed at the next step, in words; what replaces nothing is not."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from lightning_dynprune.engine import Pruner
from tests.conformance.loop import same

EACH = {"name": "constant", "begin": 2, "end": 100, "every": 100}


class Tied(nn.Module):
    """A block with a layer, and two names of one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Linear(6, 4), nn.Tanh())
        self.first, self.second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.second.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(self.block(x)))


def step(net: nn.Module, optimizer: torch.optim.Optimizer, pruner: Pruner) -> None:
    optimizer.zero_grad()
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(pruner.clock.step))
    net(x.to(next(net.parameters()).dtype)).square().sum().backward()
    optimizer.step()
    pruner.tick()


def begun(strategy: str = "magnitude", steps: int = 3) -> tuple[nn.Module, torch.optim.Optimizer, Pruner]:
    torch.manual_seed(0)
    net = Tied()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    pruner = Pruner(net, optimizer, sparsity=0.5, strategy=strategy, schedule=EACH)
    for _ in range(steps):
        step(net, optimizer, pruner)
    return net, optimizer, pruner


def replace_layer(net: Any) -> None:
    net.block[0] = nn.Linear(6, 4)


def replace_block(net: Any) -> None:
    net.block = copy.deepcopy(net.block)


def replace_parameter(net: Any) -> None:
    net.block[0].weight = nn.Parameter(net.block[0].weight.detach().clone())


def untie(net: Any) -> None:
    net.second.weight = nn.Parameter(net.first.weight.detach().clone())


def assign(net: Any) -> None:
    net.load_state_dict({name: value.clone() for name, value in net.state_dict().items()}, assign=True)


def remove(net: Any) -> None:
    net.block = nn.Tanh()


REPLACEMENTS: dict[Callable[[Any], Any], str] = {
    replace_layer: "layer block.0 was replaced .* the mask of block.0.weight",
    replace_block: "layer block was replaced .* the mask of block.0.weight",
    replace_parameter: "parameter block.0.weight was replaced",
    untie: "parameter second.weight was replaced",
    assign: r"parameter block.0.weight was replaced .*load_state_dict\(assign=True\)",
    remove: "layer block was replaced",
    lambda net: prune.identity(net.block[0], "weight"): "parameter block.0.weight was replaced",
    lambda net: parametrizations.orthogonal(net.first): "parameter first.weight was replaced",
    lambda net: net.double(): "parameter block.0.weight has changed from torch.float32 to torch.float64",
    lambda net: net.block.half().float().bfloat16(): "torch.float32 to torch.bfloat16",
}


@pytest.mark.parametrize("strategy", ["magnitude", "straight_through"])
@pytest.mark.parametrize(("change", "words"), REPLACEMENTS.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_a_replacement_is_refused_at_the_next_step_naming_it_and_what_to_do(change, words, strategy):
    net, _, pruner = begun(strategy)
    before = pruner.state_dict()
    change(net)
    for attempt in (pruner.tick, pruner.end_epoch, pruner.update, lambda: pruner.restore(2), pruner.slim):
        with pytest.raises(RuntimeError, match=words) as caught:
            attempt()
        assert "pruner.load_state_dict(state)" in str(caught.value)
        assert "With the callback" in str(caught.value)
    assert same(pruner.state_dict(), before)


def test_latent_weights_are_not_moved_into_a_tensor_of_another_dtype():
    net, optimizer, pruner = begun("straight_through")
    zeros, before = net.block[0].weight == 0, pruner.state_dict()
    assert zeros.any()
    net.double()
    with pytest.raises(RuntimeError, match=r"has changed from torch\.float32 to torch\.float64"):
        step(net, optimizer, pruner)
    assert torch.equal(net.block[0].weight == 0, zeros)
    assert same(pruner.state_dict(), before)


@pytest.mark.parametrize("strategy", ["magnitude", "taylor", "straight_through"])
@pytest.mark.parametrize("change", [replace_layer, replace_block, assign, lambda net: net.double()])
def test_the_advice_of_the_message_works(change, strategy):
    net, _, pruner = begun(strategy)
    masks = [mask.clone() for mask in pruner.masks.tensors]
    change(net)
    net.second.weight = net.first.weight  # assigning a state dict unties them
    with pytest.raises(RuntimeError):
        pruner.tick()

    state = pruner.state_dict()
    pruner.close()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    pruner = Pruner(net, optimizer, sparsity=0.5, strategy=strategy, schedule=EACH)
    pruner.load_state_dict(state)
    for target in pruner.targets:
        for key, value in target.state.items():
            assert torch.equal(value.float(), state["state"][target.name][key].float()), key
    for _ in range(3):
        step(net, optimizer, pruner)
    assert pruner.clock.step == 6
    for target, mask, before in zip(pruner.targets, pruner.masks.tensors, masks, strict=True):
        assert torch.equal(mask, before)
        assert torch.equal(target.parameter != 0, mask)


def keep_parameters(net: Any) -> None:
    """Put other modules in place that hold the same parameters, as Keras does in every fit."""
    block, net.block = net.block, nn.Sequential(nn.Linear(6, 4), nn.Tanh())
    net.block[0].weight, net.block[0].bias = block[0].weight, block[0].bias


HARMLESS: dict[str, Callable[[Any], Any]] = {
    "the same parameters in another layer": keep_parameters,
    "data": lambda net: setattr(net.block[0].weight, "data", net.block[0].weight.detach().clone()),
    "to": lambda net: net.to("cpu", torch.float32, memory_format=torch.channels_last).float(),
    "modes": lambda net: net.eval().requires_grad_(False).requires_grad_(True).train(),
    "load": lambda net: net.load_state_dict(net.state_dict()),
    "copy": lambda net: copy.deepcopy(net).double(),
    "another layer": lambda net: setattr(net, "extra", nn.Linear(2, 2)),
    "a layer that holds no target": lambda net: net.block.__setitem__(1, nn.ReLU()),
    "compiled in place": lambda net: net.compile(backend="eager"),
    "hooks": lambda net: net.block[0].register_forward_hook(lambda *args: None),
    "functional call": lambda net: torch.func.functional_call(
        net, {name: value.detach() + 1 for name, value in net.named_parameters()}, torch.zeros(1, 6)
    ),
}


@pytest.mark.parametrize("strategy", ["magnitude", "straight_through"])
@pytest.mark.parametrize("change", HARMLESS.values(), ids=HARMLESS)
def test_what_replaces_no_target_goes_on(change, strategy):
    net, optimizer, pruner = begun(strategy)
    change(net)
    for _ in range(2):
        step(net, optimizer, pruner)
    assert pruner.clock.step == 5


def test_a_replacement_is_noticed_after_a_harmless_one():
    net, optimizer, pruner = begun()
    keep_parameters(net)
    step(net, optimizer, pruner)
    replace_layer(net)
    with pytest.raises(RuntimeError, match=r"layer block\.0 was replaced"):
        pruner.tick()


def test_a_copy_watches_the_copied_model_and_not_the_first():
    net, _, pruner = begun()
    copied = copy.deepcopy(pruner)
    replace_layer(net)
    copied.tick()
    replace_layer(copied.model)
    with pytest.raises(RuntimeError, match=r"layer block\.0 was replaced"):
        copied.tick()


def test_every_update_makes_the_check_however_it_is_asked_for():
    net, _, pruner = begun(steps=0)
    replace_layer(net)
    for attempt in (lambda: pruner.update(0.5), lambda: pruner.raise_sparsity(0.5), pruner.tick, pruner.tick):
        with pytest.raises(RuntimeError, match=r"layer block\.0 was replaced"):
            attempt()
    assert (pruner.clock.step, pruner.updates, pruner.sparsity) == (0, 0, 0.0)
