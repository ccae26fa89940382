"""Each strategy's own rule, on numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from lightning_dynprune.strategies import Magnitude, Random, Sigmoid, Taylor
from lightning_dynprune.targets import Target, TargetView


def view(weight: list[float], grad: list[float] | None = None, seed: int = 0, start: int = 0) -> TargetView:
    values = torch.tensor(weight)
    return TargetView(
        "w",
        values,
        None if grad is None else torch.tensor(grad),
        torch.ones(len(weight), dtype=torch.bool),
        {"sensitivity": torch.zeros(len(weight))},
        seed,
        start=start,
    )


def test_magnitude_is_the_absolute_value_or_its_square():
    assert Magnitude().score(view([-2.0, 0.5])).tolist() == [2.0, 0.5]
    assert Magnitude(norm=2).score(view([-2.0, 0.5])).tolist() == [4.0, 0.25]
    with pytest.raises(ValueError, match="norm=3 is not accepted; give 1 or 2"):
        Magnitude(norm=3)


def test_sigmoid_is_the_logistic_function_of_the_size_or_the_signed_weight():
    expected = [1 / (1 + math.exp(-x)) for x in (2.0, 0.5)]
    assert Sigmoid().score(view([-2.0, 0.5])).tolist() == pytest.approx(expected)
    signed = [1 / (1 + math.exp(2.0)), 1 / (1 + math.exp(-0.5))]
    assert Sigmoid(signed=True).score(view([-2.0, 0.5])).tolist() == pytest.approx(signed)


def test_signed_sigmoid_gives_up_the_strong_negative_connection_first():
    weights = view([-3.0, 0.1, 1.0])
    assert int(Sigmoid(signed=True).score(weights).argmin()) == 0
    assert int(Sigmoid().score(weights).argmin()) == 1


def test_taylor_averages_the_squared_product_of_weight_and_gradient():
    strategy = Taylor(decay=0.75)
    first, second = view([2.0, -1.0], [0.5, 3.0]), view([1.0, 1.0], [4.0, 0.0])
    strategy.observe(first)
    assert strategy.score(first).tolist() == [0.25 * 1.0, 0.25 * 9.0]
    second.state = first.state
    strategy.observe(second)
    assert strategy.score(second).tolist() == [0.75 * 0.25 + 0.25 * 16.0, 0.75 * 2.25]


def test_taylor_leaves_a_target_without_gradient_alone():
    target = view([2.0])
    Taylor().observe(target)
    assert target.state["sensitivity"].tolist() == [0.0]
    with pytest.raises(ValueError, match=r"decay=1.5 is not accepted; give a number in \[0, 1\]"):
        Taylor(decay=1.5)


def test_taylor_remembers_four_bytes_a_connection():
    for dtype in (torch.float32, torch.bfloat16):
        state = Taylor().init_state(Target("w", nn.Parameter(torch.zeros(10, 10, dtype=dtype))))
        assert sum(t.numel() * t.element_size() for t in state.values()) == 400


def test_random_scores_depend_on_seed_and_position_alone():
    whole = Random().score(view([0.0] * 1000, seed=7))
    assert torch.equal(Random().score(view([5.0] * 300, seed=7, start=400)), whole[400:700])
    index = torch.tensor([3, 999, 0])
    assert torch.equal(Random().score(view([0.0] * 1000, seed=7).gather(index)), whole[index])
    assert not torch.equal(Random().score(view([0.0] * 1000, seed=8)), whole)


def test_random_scores_are_uniform_and_uncorrelated():
    a = Random().score(view([0.0] * 100_000, seed=1))
    b = Random().score(view([0.0] * 100_000, seed=2))
    counts = torch.histc(a, bins=20, min=0, max=1)
    assert float(((counts - 5000) ** 2 / 5000).sum()) < 45  # chi-square with 19 degrees of freedom: p < 0.001
    for pair in (torch.stack([a, b]), torch.stack([a[:-1], a[1:]])):
        assert abs(float(torch.corrcoef(pair)[0, 1])) < 0.015
