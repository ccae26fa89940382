"""Connections that come back: at zero, with cleared slots, in exact numbers, and at no cost between updates."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_dynprune.engine import Pruner
from lightning_dynprune.schedules import Cosine

EVERY_3 = {"name": "constant", "begin": 3, "end": 30, "every": 3}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(10, 14), nn.Tanh(), nn.Linear(14, 6))


def backward(net: nn.Module, step: int) -> None:
    x = torch.randn(16, 10, generator=torch.Generator().manual_seed(step))
    net.zero_grad()
    net(x).square().sum().backward()


# What a slot holds before the first step; zero where nothing is written here.
FRESH = {"Adagrad": {"sum": 0.25}, "Rprop": {"step_size": 0.01}}
OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, weight_decay=0.1, nesterov=True),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1, amsgrad=True),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "NAdam": lambda p: torch.optim.NAdam(p, lr=0.01),
    "RAdam": lambda p: torch.optim.RAdam(p, lr=0.01),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9, centered=True),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01, initial_accumulator_value=0.25),
    "Adadelta": lambda p: torch.optim.Adadelta(p),
    "Adamax": lambda p: torch.optim.Adamax(p, lr=0.01),
    "ASGD": lambda p: torch.optim.ASGD(p, lr=0.01),
    "Rprop": lambda p: torch.optim.Rprop(p, lr=0.01),
    "Adafactor": lambda p: torch.optim.Adafactor(p, lr=0.01),
}
if hasattr(torch.optim, "Muon"):
    OPTIMIZERS["Muon"] = lambda p: torch.optim.Muon([w for w in p if w.dim() == 2], lr=0.01)


@pytest.mark.parametrize("strategy", ["set", "rigl"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_grown_start_at_zero_with_fresh_slots_and_the_dropped_stay_gone(name, strategy):
    net = network()
    optimizer = OPTIMIZERS[name](net.parameters())
    pruner = Pruner(
        net, optimizer, sparsity=0.6, strategy={"name": strategy, "exchange": 0.4}, schedule=EVERY_3, total_steps=40
    )
    grown = slots = 0
    for step in range(1, 16):
        backward(net, step)
        optimizer.step()
        before = [m.clone() for m in pruner.masks.tensors]
        update = pruner.tick()
        for target, old, mask in zip(pruner.targets, before, pruner.masks.tensors, strict=True):
            assert not target.parameter.detach().view(torch.int32)[~mask].any()
            if update is None or step == 3:
                continue
            new = mask & ~old
            grown += int(new.sum())
            assert not target.parameter.detach().view(torch.int32)[new].any()
            for slot, value in optimizer.state[target.parameter].items():
                if isinstance(value, torch.Tensor) and value.shape == target.parameter.shape:
                    slots += 1
                    fresh = FRESH.get(name, {}).get(slot, 0.0)
                    assert (value[new | ~mask] == fresh).all(), slot
                    assert (value[mask & old] != fresh).any(), slot
    assert grown > 50
    assert slots or name == "Adafactor"  # its moments are factored: none belongs to one connection


@pytest.mark.parametrize("scope", ["global", "uniform", "erk"])
@pytest.mark.parametrize("strategy", ["set", "rigl"])
@pytest.mark.parametrize(
    "exchange",
    [0.0, 0.3, 0.95, Cosine(0.0, initial=0.5, begin=0, end=30, every=1), {"final": 0.1, "initial": 0.6}],
    ids=["none", "number", "most", "falling", "in_words"],
)
def test_the_count_stays_exact_at_every_update_and_in_every_layer(scope, strategy, exchange):
    if isinstance(exchange, dict):
        exchange = Cosine(**exchange, begin=3, end=30, every=1)
    net = network()
    sgd = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    pruner = Pruner(
        net,
        sgd,
        sparsity=0.73,
        strategy={"name": strategy, "exchange": exchange},
        threshold={"name": "topk", "scope": scope},
        schedule=EVERY_3,
    )
    living = 140 + 84 - math.floor(0.73 * 224 + 0.5)
    # Shares of 60: by sizes 140 and 84, or by the sums of shapes, 24 and 20.
    layers = {"uniform": [round(living * 140 / 224), round(living * 84 / 224)], "erk": [33, 27]}
    updates = 0
    for step in range(1, 32):
        backward(net, step)
        sgd.step()
        if pruner.tick() is None:
            continue
        updates += 1
        assert [int(m.sum()) for m in pruner.masks.tensors] == pruner.masks.kept
        assert sum(pruner.masks.kept) == living == 60
        if scope in layers:
            assert pruner.masks.kept == layers[scope]
    assert updates == 10


def test_a_rising_sparsity_and_growth_go_together():
    net = network()
    sgd = torch.optim.SGD(net.parameters(), lr=0.05)
    schedule = {"name": "linear", "begin": 0, "end": 20, "every": 4, "initial": 0.3}
    pruner = Pruner(net, sgd, sparsity=0.8, strategy={"name": "rigl", "exchange": 0.2}, schedule=schedule)
    for step in range(1, 21):
        backward(net, step)
        sgd.step()
        if update := pruner.tick():
            assert 224 - sum(pruner.masks.kept) == math.floor(update.scheduled_sparsity * 224 + 0.5)
            assert sum(update.grown.values()) > 0
    assert 224 - sum(pruner.masks.kept) == 179


class Operations(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append(func.__name__.split(".")[0])
        return func(*args, **(kwargs or {}))


VIEWS = {"detach", "view", "split", "permute", "alias", "t"}


@pytest.mark.parametrize("clips", [False, True])
def test_a_step_without_an_update_only_masks_what_is_there(clips):
    net = network()
    sgd = torch.optim.SGD(net.parameters(), lr=0.01)
    pruner = Pruner(net, sgd, sparsity=0.6, strategy={"name": "rigl", "exchange": 0.3}, schedule=EVERY_3)
    for step in range(1, 9):
        backward(net, step)
        with Operations() as before:
            if clips:
                pruner.mask_gradients()
        sgd.step()
        with Operations() as after:
            update = pruner.tick()
        if update is None and step > 3:
            # One product a target and step, and one more for its gradient where the norm is clipped; nothing is kept.
            products = [name for name in before.seen + after.seen if name not in VIEWS]
            assert products == ["mul_"] * (4 if clips else 2)
            assert pruner._run.snapshot.is_empty
    assert pruner.updates == 2


def test_gradients_of_the_pruned_are_out_of_the_norm_and_still_decide_the_growth():
    def run(clip: bool) -> Pruner:
        net = network()
        sgd = torch.optim.SGD(net.parameters(), lr=0.01)
        pruner = Pruner(net, sgd, sparsity=0.6, strategy={"name": "rigl", "exchange": 0.3}, schedule=EVERY_3)
        for step in range(1, 7):
            backward(net, step)
            if clip:
                dense = [t.parameter.grad.clone() for t in pruner.targets]
                pruner.mask_gradients()
                norm = nn.utils.clip_grad_norm_(net.parameters(), 1e9)
                squares = sum(
                    float((g.double()[m] ** 2).sum()) for g, m in zip(dense, pruner.masks.tensors, strict=False)
                )
                squares += sum(float((b.grad.double() ** 2).sum()) for b in (net[0].bias, net[2].bias))
                assert float(norm) == pytest.approx(math.sqrt(squares), rel=1e-5)
                if step > 3:
                    whole = sum(float((g.double() ** 2).sum()) for g in dense)
                    assert squares < 0.9 * whole
            sgd.step()
            pruner.tick()
        assert pruner.updates == 2
        return pruner

    clipped, free = run(True), run(False)
    assert sum(free.last_update.grown.values()) > 5
    for a, b in zip(clipped.masks.tensors, free.masks.tensors, strict=True):
        assert torch.equal(a, b)


def test_a_strategy_that_observes_sees_the_clipped_gradients_at_every_step():
    net = nn.Linear(2, 1, bias=False)
    net.weight.data = torch.tensor([[2.0, 1.0]])
    sgd = torch.optim.SGD(net.parameters(), lr=0.0)
    schedule = {"name": "constant", "begin": 1, "end": 3, "every": 1}
    pruner = Pruner(net, sgd, sparsity=0.5, strategy={"name": "taylor", "decay": 0.5}, schedule=schedule)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(3):
            net.weight.grad = torch.tensor([[3.0, 4.0]])
            pruner.mask_gradients()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            sgd.step()
            pruner.tick()
    # Gradients 3 / 5 at first, then 1, as the pruned second one is no part of the norm.
    average = 0.0
    for change in (2 * 0.6, 2 * 1.0, 2 * 1.0):
        average = 0.5 * average + 0.5 * change**2
    assert pruner.targets[0].state["sensitivity"][0, 0].item() == pytest.approx(average, rel=1e-4)


def test_scores_by_gradient_compare_targets_at_one_scale_though_some_are_clipped_dense():
    net = nn.Sequential(nn.Linear(4, 1, bias=False), nn.Linear(4, 1, bias=False))
    for linear in net:
        linear.weight.data = torch.tensor([[1.0, 1.0, 1.0, 1.0]])
    sgd = torch.optim.SGD(net.parameters(), lr=0.0)
    schedule = {"name": "linear", "begin": 1, "end": 2, "every": 1, "initial": 0.25}
    pruner = Pruner(net, sgd, sparsity=0.5, strategy="snip", schedule=schedule)
    for _ in range(2):
        net[0].weight.grad = torch.tensor([[1.0, 2.0, 30.0, 40.0]])
        net[1].weight.grad = torch.tensor([[35.0, 45.0, 55.0, 65.0]])
        pruner.mask_gradients()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        sgd.step()
        pruner.tick()
    # 1 and 2 go first; then 30 and 35, the least of what is left.
    assert [m[0].tolist() for m in pruner.masks.tensors] == [[False, False, False, True], [False, True, True, True]]


@pytest.mark.parametrize(
    "strategy",
    ["magnitude", {"name": "rigl", "exchange": 0.5}, {"name": "set", "exchange": 0.5}, "surgery", "movement"],
    ids=str,
)
def test_no_layer_is_emptied_and_one_at_its_floor_is_named_once(strategy):
    net = network()
    with torch.no_grad():
        net[2].weight.mul_(1e-4)
    sgd = torch.optim.SGD(net.parameters(), lr=1e-6)
    pruner = Pruner(
        net,
        sgd,
        sparsity=0.93,
        strategy=strategy,
        threshold={"name": "topk", "scope": "global"},
        schedule={"name": "linear", "begin": 1, "end": 20, "every": 1},
        min_kept=4,
    )
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for step in range(1, 22):
            backward(net, step)
            sgd.step()
            pruner.tick()
            assert min(pruner.masks.kept) >= 4
    said = [str(w.message).split(" is down to")[0] for w in seen if "is down to min_kept=4" in str(w.message)]
    assert len(said) == len(set(said))
    # Chance and movement do not heed how small the weights are, so no layer need come down to its floor.
    if strategy in ("magnitude", "surgery"):
        assert said == ["2.weight"]
    assert 224 - sum(pruner.masks.kept) == math.floor(0.93 * 224 + 0.5)


def test_without_a_grow_of_its_own_chance_brings_connections_back_where_the_schedule_lets_them():
    net = network()
    pruner = Pruner(net, sparsity=0.8, strategy="magnitude", schedule={"name": "one_shot", "begin": 1})
    pruner.tick()
    update = pruner.update(0.5)
    assert sum(update.dropped.values()) == 0
    assert sum(update.grown.values()) == 179 - 112
    assert sum(pruner.masks.kept) == 112
    grown = torch.cat(
        [(m & (t.parameter == 0)).view(-1) for t, m in zip(pruner.targets, pruner.masks.tensors, strict=False)]
    )
    assert int(grown.sum()) == 67
