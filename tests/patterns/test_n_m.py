"""N of every M connections: which stay, which sparsity that is, and what it does not go with."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_dynprune import DynamicPruning
from lightning_dynprune.engine import Pruner
from lightning_dynprune.patterns import NM
from lightning_dynprune.targets import Target

SCHEDULE = {"name": "linear", "begin": 1, "end": 4, "every": 1}


def pruned(net: nn.Module, ticks: int = 4, **settings) -> Pruner:
    pruner = Pruner(net, schedule=SCHEDULE, **{"strategy": "magnitude", **settings})
    for _ in range(ticks):
        pruner.tick()
    return pruner


def test_the_two_largest_of_every_four_stay():
    net = nn.Linear(8, 1, bias=False)
    net.weight.data = torch.tensor([[1.0, -4.0, 3.0, 2.0, 8.0, 5.0, -6.0, 7.0]])
    pruned(net, pattern="n_m")
    assert net.weight.tolist() == [[0.0, -4.0, 3.0, 0.0, 8.0, 0.0, 0.0, 7.0]]


def test_on_the_way_the_worst_go_first_whatever_their_group():
    net = nn.Linear(8, 1, bias=False)
    net.weight.data = torch.tensor([[1.0, -4.0, 3.0, 2.0, 8.0, 5.0, -6.0, 7.0]])
    pruned(net, ticks=2, pattern="n_m")  # a third of the way: 1.33 of 8 connections
    assert net.weight.tolist() == [[0.0, -4.0, 3.0, 2.0, 8.0, 5.0, -6.0, 7.0]]


def test_groups_of_a_convolution_lie_along_its_input_channels():
    net = nn.Conv2d(4, 1, (1, 2), bias=False)
    net.weight.data = torch.tensor([[1.0, 8.0], [2.0, 7.0], [3.0, 6.0], [4.0, 5.0]]).view(1, 4, 1, 2)
    pruned(net, pattern="n_m")
    assert net.weight.view(4, 2).tolist() == [[0.0, 8.0], [0.0, 7.0], [3.0, 0.0], [4.0, 0.0]]


def test_ties_go_to_the_first():
    assert NM(2, 4).protected_units(Target("w", nn.Parameter(torch.zeros(1, 4))), torch.ones(4), None).tolist() == [
        True,
        True,
        False,
        False,
    ]


def test_only_living_connections_are_protected():
    weight = Target("w", nn.Parameter(torch.zeros(1, 4)))
    lives = torch.tensor([True, False, True, False])
    assert NM(1, 4).protected_units(weight, torch.tensor([1.0, 9.0, 2.0, 8.0]), lives).tolist() == [
        False,
        False,
        True,
        False,
    ]


@pytest.mark.parametrize(("n", "m"), [(1, 2), (2, 4), (1, 4), (3, 8), (7, 8)])
@pytest.mark.parametrize("strategy", ["magnitude", "random", "straight_through"])
def test_every_group_ends_with_exactly_n(n, m, strategy):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 8))
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    pruner = Pruner(net, optimizer, strategy=strategy, pattern={"name": "n_m", "n": n, "m": m}, schedule=SCHEDULE)
    for _ in range(6):
        net(torch.randn(8, 32)).square().mean().backward()
        optimizer.step()
        pruner.tick()
    assert pruner.sparsity == pytest.approx(1 - n / m)
    for layer in (net[0], net[2]):
        assert ((layer.weight != 0).view(-1, m).sum(1) == n).all()


def test_reconstruction_refits_what_stays_of_each_group():
    torch.manual_seed(0)
    net = nn.Linear(16, 4)
    inputs = torch.randn(64, 16) @ torch.randn(16, 16)  # correlated, so that what stays can stand in
    wanted = net(inputs).detach()
    plain = nn.Linear(16, 4)
    plain.load_state_dict(net.state_dict())
    errors = []
    for model, reconstruct in ((net, True), (plain, False)):
        pruner = Pruner(
            model,
            pattern="n_m",
            reconstruct=reconstruct,
            strategy="magnitude",
            schedule={"name": "one_shot", "begin": 1},
        )
        if reconstruct:
            pruner.calibrate([inputs])
        pruner.tick()
        assert ((model.weight != 0).view(-1, 4).sum(1) == 2).all()
        errors.append(float((model(inputs) - wanted).square().mean()))
    assert errors[0] < 0.5 * errors[1]


def test_inputs_that_fill_no_group_are_refused_or_left_dense():
    with pytest.raises(ValueError, match=r"m=4 does not divide the 6 inputs of weight; accepted for n=2: 3, 6"):
        Pruner(nn.Linear(6, 3), pattern="n_m", total_steps=9)
    net = nn.Linear(6, 3)
    pruner = pruned(net, pattern={"name": "n_m", "pad": True})
    assert pruner.sparsity == pytest.approx(6 / 18)
    assert bool((net.weight[:, 4:] != 0).all())


def test_the_sparsity_follows_from_n_and_m_and_another_is_refused():
    assert DynamicPruning(pattern="n_m").target_sparsity is None
    assert pruned(nn.Linear(8, 3), sparsity=0.5, pattern="n_m").target_sparsity == 0.5
    with pytest.raises(ValueError, match=r"sparsity=0.9 is not what pattern n_m 2:4 ends at, which is 0.5 here"):
        pruned(nn.Linear(8, 3), sparsity=0.9, pattern="n_m")


def test_a_strategy_that_exchanges_is_refused():
    net = nn.Linear(8, 3)
    with pytest.raises(ValueError, match="pattern n_m 2:4 does not go with strategy=RigL"):
        Pruner(net, torch.optim.SGD(net.parameters(), 0.1), strategy="rigl", pattern="n_m", total_steps=100)


def test_min_kept_above_what_the_groups_keep_is_refused():
    with pytest.raises(ValueError, match="min_kept=5 of weight is more than pattern n_m 2:4 keeps"):
        Pruner(nn.Linear(8, 1), pattern="n_m", min_kept=5, total_steps=9)


@pytest.mark.parametrize(("n", "m"), [(4, 4), (0, 4), (5, 4)])
def test_n_lies_between_1_and_m(n, m):
    with pytest.raises(ValueError, match="pattern n_m: n="):
        NM(n, m)
