"""Hysteresis: two thresholds around T."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from lightning_dynprune.engine import Pruner
from lightning_dynprune.thresholds import Hysteresis
from tests.strategies.literal import EACH_STEP, Layer

LIVES = torch.tensor([True, True, False, False])


def layer(weight: list[float], sparsity: float = 0.9, **settings) -> Layer:
    threshold = {"name": "hysteresis", "gamma": 0.0, **settings}
    return Layer(weight, lr=1.0, sparsity=sparsity, strategy="surgery", threshold=threshold, schedule=EACH_STEP)


def test_the_living_are_measured_against_a_and_the_pruned_against_b():
    threshold = Hysteresis(a=0.5, b=2.0)
    heeded = threshold.adjust_scores(torch.tensor([1.0, 2.0, 1.0, 2.0]), LIVES, seed=0, step=1)
    assert heeded.tolist() == [2.0, 4.0, 0.5, 1.0]


def test_t_is_the_mean_and_c_deviations_frozen_at_the_first_update():
    # Mean 3, deviation sqrt(2.5): T = 3 + 1.58; a T = 4.12.
    one = layer([1.0, -2.0, 4.0, -5.0], c=1.0)
    one.step()
    t = 3 + math.sqrt(2.5)
    assert float(one.pruner.targets[0].memory["threshold"]) == pytest.approx(t)
    assert one.mask == [False, False, False, True]
    # All weights are a hundred times as large, and T is what it was: everything returns.
    one.step([-99.0, 198.0, -396.0, 495.0])
    assert one.mask == [True, True, True, True]
    assert one.weight == pytest.approx([100.0, -200.0, 400.0, -500.0])
    assert float(one.pruner.targets[0].memory["threshold"]) == pytest.approx(t)


def test_t_is_never_below_zero():
    one = layer([1.0, -2.0, 4.0, 0.0], c=-9.0)
    one.step()
    assert float(one.pruner.targets[0].memory["threshold"]) == 0.0
    assert one.mask == [True, True, True, False]


def test_the_scheduled_sparsity_is_the_ceiling():
    one = layer([1.0, -2.0, 4.0, -5.0], sparsity=0.5, c=1.0)
    one.step()
    assert one.mask == [False, False, True, True]


def test_without_c_exactly_the_scheduled_sparsity_is_met_and_a_newcomer_needs_more():
    one = layer([1.0, 2.0, 3.0, 4.0], sparsity=0.5)
    one.step()
    assert one.mask == [False, False, True, True]
    one.step([0.0, -1.2, 0.0, 0.0])  # 3.2 / 1.1 is less than 3 / 0.9
    assert one.mask == [False, False, True, True]
    one.step([0.0, -0.5, 0.0, 0.0])  # 3.7 / 1.1 is more
    assert one.mask == [False, True, False, True]
    assert one.weight == pytest.approx([0.0, 3.7, 0.0, 4.0])


def test_each_target_has_the_c_of_the_first_glob_that_matches():
    net = nn.Sequential(*[nn.Linear(4, 1, bias=False) for _ in range(3)])
    for linear in net:
        linear.weight.data = torch.tensor([[1.0, 2.0, 4.0, 5.0]])
    sgd = torch.optim.SGD(net.parameters(), lr=0.0)
    threshold = {"name": "hysteresis", "c": {"0.*": -1.0, "*": 0.0, "2.*": 9.0}, "gamma": 0.0}
    pruner = Pruner(net, sgd, sparsity=0.9, strategy="surgery", threshold=threshold, schedule=EACH_STEP)
    pruner.tick()
    # T is 1.42 for the first, the mean 3 for the others.
    assert [m[0].tolist() for m in pruner.masks.tensors] == [
        [False, True, True, True],
        [False, False, True, True],
        [False, False, True, True],
    ]
    with pytest.raises(ValueError, match=r"c has no entry for 1\.weight; there are 0\.\*"):
        Pruner(
            nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)),
            sgd,
            sparsity=0.9,
            strategy="surgery",
            threshold={"name": "hysteresis", "c": {"0.*": 1.0}},
            schedule=EACH_STEP,
        )


def layers(count: int, dtype: torch.dtype = torch.float32, **settings) -> Pruner:
    net = nn.Sequential(*[nn.Linear(4, 1, bias=False, dtype=dtype) for _ in range(count)])
    for linear in net:
        linear.weight.data = torch.tensor([[1.0, 2.0, 4.0, 5.0]], dtype=dtype)
    sgd = torch.optim.SGD(net.parameters(), lr=0.0)
    schedule = {"name": "constant", "begin": 9, "end": 100, "every": 10}
    threshold = {"name": "hysteresis", "c": 0.0, **settings}
    return Pruner(net, sgd, sparsity=0.9, strategy="surgery", threshold=threshold, schedule=schedule)


@pytest.mark.parametrize(("gamma", "power", "share"), [(1 / 9, 1.0, 1 / 2), (1 / 9, 2.0, 1 / 4), (1.0, 1.0, 1 / 10)])
def test_targets_are_updated_with_the_probability_that_decays(gamma, power, share):
    count = 600
    pruner = layers(count, gamma=gamma, power=power)
    for _ in range(9):
        pruner.tick()
    assert pruner.updates == 1
    moved = sum(kept == 2 for kept in pruner.masks.kept)
    assert moved == count - sum(kept == 4 for kept in pruner.masks.kept)
    frozen = [float(t.memory["threshold"]) for t in pruner.targets if t.memory["threshold"] != -1]
    assert frozen == pytest.approx([3.0] * moved)
    # Four standard deviations of a binomial count.
    assert abs(moved - share * count) < 4 * math.sqrt(count * share * (1 - share))


def test_with_gamma_0_every_update_moves_every_target():
    pruner = layers(50, gamma=0.0)
    for _ in range(9):
        pruner.tick()
    assert set(pruner.masks.kept) == {2}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_target_left_out_by_chance_stays_as_it_is_in_every_type(dtype):
    pruner = layers(30, dtype, gamma=1 / 9)
    states = []
    for _ in range(9 + 30):
        pruner.tick()
        states.append(list(pruner.masks.kept))
    assert 0 < states[8].count(2) < 30
    # What has moved once stays: weights are held, so there is nothing to return.
    assert all(b == 2 for a, b in zip(states[8], states[-1], strict=True) if a == 2)
    assert states[-1].count(2) > states[8].count(2)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"a": 0.0}, ValueError, "a=0.0 is not accepted"),
        ({"a": 1.2}, ValueError, "b=1.1 is not accepted"),
        ({"gamma": -1.0}, ValueError, "gamma=-1.0 is not accepted"),
        ({"power": -1.0}, ValueError, "power=-1.0 is not accepted"),
        ({"c": "many"}, TypeError, "c='many' is not a finite number"),
        ({"c": {"fc.*": "many"}}, TypeError, r"c of fc\.\*='many' is not a finite number"),
        ({"scope": "local"}, ValueError, "scope='local' is unknown"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(settings, error, message):
    with pytest.raises(error, match=message):
        Hysteresis(**settings)
