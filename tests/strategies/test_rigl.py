"""RigL: drop the smallest, grow where the gradient is largest."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from lightning_dynprune.engine import Pruner
from lightning_dynprune.schedules import Cosine
from tests.strategies.literal import Layer

WEIGHT = [1.0, -2.0, 3.0, -4.0, 5.0, -6.0]
EACH = {"name": "constant", "begin": 0, "end": 100, "every": 1}


def layer() -> Layer:
    strategy = {"name": "rigl", "start": "magnitude", "exchange": 0.34}
    return Layer(WEIGHT, sparsity=0.5, strategy=strategy, schedule=EACH)


def test_the_smallest_goes_and_the_one_with_the_largest_gradient_comes_at_zero():
    one = layer()
    # The start keeps -4, 5 and -6; of the three one is exchanged. Gradients of living connections do not count.
    update = one.step([0.1, -0.9, 0.5, 0.2, 7.0, 7.0])
    assert one.mask == [False, True, False, False, True, True]
    assert one.weight == [0.0, 0.0, 0.0, 0.0, 5.0, -6.0]
    assert (update.dropped["weight"], update.grown["weight"]) == (1, 1)
    assert update.cuts == {"weight": 5.0}
    # Next, the new one is the smallest; the gradient brings back the first.
    one.step([-0.8, 0.0, 0.5, 0.2, 7.0, 7.0])
    assert one.mask == [True, False, False, False, True, True]
    assert one.weight == [0.0, 0.0, 0.0, 0.0, 5.0, -6.0]


def test_a_connection_dropped_and_regrown_by_one_update_keeps_its_value():
    one = layer()
    update = one.step([0.1, -0.3, 0.2, -0.9, 7.0, 7.0])
    assert one.mask == [False, False, False, True, True, True]
    assert one.weight == [0.0, 0.0, 0.0, -4.0, 5.0, -6.0]
    assert update.churn == 0.0


def test_without_a_gradient_it_refuses_by_name_and_changes_nothing():
    net = nn.Linear(6, 1, bias=False)
    net.weight.data = torch.tensor([WEIGHT])
    pruner = Pruner(net, sparsity=0.5, strategy={"name": "rigl", "exchange": 0.34}, schedule=EACH)
    pruner.start()
    before, weight = pruner.masks.tensors[0].clone(), net.weight.detach().clone()
    with pytest.raises(RuntimeError, match="weight has no gradient at this update"):
        pruner.tick()
    assert torch.equal(pruner.masks.tensors[0].view(torch.uint8), before.view(torch.uint8))
    assert torch.equal(net.weight, weight)


@pytest.mark.parametrize("scope", ["global", "uniform", "erk"])
def test_every_update_of_a_run_exchanges_what_the_cosine_says(scope):
    alpha, end, total = 0.4, 30, 40
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(17, 23, bias=False), nn.Linear(23, 11, bias=False))
    sgd = torch.optim.SGD(net.parameters(), lr=0.0)
    pruner = Pruner(
        net,
        sgd,
        sparsity=0.7,
        strategy={"name": "rigl", "exchange": Cosine(0.0, initial=alpha, begin=0, end=end)},
        threshold={"name": "topk", "scope": scope},
        schedule={"name": "constant", "begin": 0, "end": end, "every": 3},
        total_steps=total,
    )
    size = 17 * 23 + 23 * 11
    living = size - math.floor(0.7 * size + 0.5)
    seen = []
    for step in range(1, total + 1):
        for position, layer in enumerate(net):
            # Nothing that lives has a gradient, so nothing that is dropped comes back at once.
            layer.weight.grad = torch.rand_like(layer.weight) * ~pruner.masks.tensors[position]
            layer.weight.data += 0.5 * pruner.masks.tensors[position]
        if step == 1:
            pruner.start()
            for position, layer in enumerate(net):
                layer.weight.grad = torch.rand_like(layer.weight) * ~pruner.masks.tensors[position]
        sgd.step()
        if update := pruner.tick():
            share = alpha / 2 * (1 + math.cos(math.pi * step / end))
            # Per layer where the scope is, each of its own kept connections.
            expected = round(share * living) if scope == "global" else sum(round(share * k) for k in pruner.masks.kept)
            assert sum(update.dropped.values()) == sum(update.grown.values()) == expected
            assert sum(pruner.masks.kept) == living
            seen.append(expected)
    assert len(seen) == 10
    assert seen == sorted(seen, reverse=True)
    assert seen[0] > 60
    assert seen[-1] == 0


def test_a_training_run_exchanges_as_an_independent_reference_does():
    torch.manual_seed(2)
    net = nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 8))
    weights = [net[0].weight, net[2].weight]
    sgd = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    pruner = Pruner(
        net,
        sgd,
        sparsity=0.6,
        strategy={"name": "rigl", "exchange": 0.3},
        threshold={"name": "topk", "scope": "global"},
        schedule={"name": "constant", "begin": 0, "end": 60, "every": 4},
    )
    x, y = torch.randn(64, 12), torch.randn(64, 8)
    updates = grown_in_all = 0
    for _ in range(60):
        sgd.zero_grad()
        nn.functional.mse_loss(net(x), y).backward()
        sgd.step()
        mask = torch.cat([m.reshape(-1) for m in pruner.masks.tensors])
        w = torch.cat([p.detach().reshape(-1) for p in weights]) * mask
        g = torch.cat([p.grad.reshape(-1) for p in weights]).abs()
        if pruner.tick() is None:
            continue
        updates += 1
        living = int(mask.sum())
        exchanged = round(0.3 * living)
        lives_by_size = sorted(mask.nonzero().view(-1).tolist(), key=lambda i: float(w[i].abs()))
        stays = set(lives_by_size[exchanged:])
        dead_by_gradient = sorted(set(range(len(mask))) - stays, key=lambda i: float(g[i]), reverse=True)
        expected = stays | set(dead_by_gradient[:exchanged])
        after = torch.cat([m.reshape(-1) for m in pruner.masks.tensors])
        assert set(after.nonzero().view(-1).tolist()) == expected
        new = after & ~mask
        grown_in_all += int(new.sum())
        now = torch.cat([p.detach().reshape(-1) for p in weights])
        assert not now[new].any()
        assert torch.equal(now[after & mask], w[after & mask])
    assert updates == 15
    assert grown_in_all > 100


@pytest.mark.parametrize("scope", ["erk", "uniform"])
def test_each_layer_exchanges_its_own_share_as_in_the_paper(scope):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(64, 64, bias=False), nn.Linear(32, 40, bias=False))
    schedule = {"name": "constant", "begin": 0, "end": 5, "every": 5}
    strategy = {"name": "rigl", "exchange": 0.3}
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    pruner = Pruner(net, optimizer, sparsity=0.9, strategy=strategy, threshold={"scope": scope}, schedule=schedule)
    weights = [layer.weight for layer in net]
    # The smallest weights of all lie in one layer, and gradients are largest where nothing has been kept so far.
    with torch.no_grad():
        weights[1].mul_(1e-3)
    for step in range(5):
        before = [mask.clone() for mask in pruner.masks.tensors]
        for weight, mask in zip(weights, before, strict=True):
            weight.grad = torch.where(mask, 0.0, torch.rand(weight.shape) + 1) if step else torch.rand(weight.shape)
        optimizer.step()
        update = pruner.tick()
    assert update is not None
    for mask, earlier in zip(pruner.masks.tensors, before, strict=True):
        kept = int(earlier.sum())
        assert int(mask.sum()) == kept
        # f (1 - s_l) N_l leave, as far as the layer has so many others that can return.
        expected = min(round(0.3 * kept), mask.numel() - kept)
        assert int((earlier & ~mask).sum()) == int((mask & ~earlier).sum()) == expected
