"""Movement: what training drives away from zero stays."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from lightning_dynprune.engine import Pruner
from tests.strategies.literal import EACH_STEP, Layer

WEIGHT = [1.0, -2.0, 3.0, -4.0]


def test_hard_movement_keeps_the_largest_sums_whatever_the_sizes():
    layer = Layer(WEIGHT, sparsity=0.5, strategy="movement", schedule=EACH_STEP)
    layer.step([-1.0, 1.0, 1.0, -1.0])
    assert layer.state("movement") == [1.0, 2.0, -3.0, -4.0]
    assert layer.mask == [True, True, False, False]
    assert layer.weight == [1.0, -2.0, 0.0, 0.0]
    # The gradient reaches what is pruned, and its latent value counts: 3 * 2 brings the third back.
    layer.step([0.0, 0.5, -2.0, 0.0])
    assert layer.state("movement") == [1.0, 3.0, 3.0, -4.0]
    assert layer.mask == [False, True, True, False]
    assert layer.weight == [0.0, -2.0, 3.0, 0.0]


def test_the_sum_takes_the_weights_before_the_step():
    layer = Layer([2.0, -1.0], lr=1.0, sparsity=0.5, strategy="movement", schedule=EACH_STEP)
    layer.step([1.0, 1.0])
    assert layer.state("movement") == [-2.0, 1.0]
    # Weights 1 and -2 behind and before the mask.
    layer.step([1.0, 1.0])
    assert layer.state("movement") == [-3.0, 3.0]


def test_soft_movement_prunes_what_falls_to_the_threshold_and_its_penalty_pulls_scores_down():
    layer = Layer(
        WEIGHT,
        sparsity=0.9,
        strategy={"name": "movement", "penalty": 0.8},
        threshold={"name": "fixed", "theta": 0.5},
        schedule=EACH_STEP,
    )
    layer.step([-1.0, 1.0, -0.1, -1.0])
    # sigmoid(0) (1 - sigmoid(0)) is a quarter: each score is 0.2 lower.
    assert layer.state("movement") == pytest.approx([0.8, 1.8, 0.1, -4.2])
    assert layer.mask == [True, True, False, False]
    layer.step()
    held = [1 / (1 + math.exp(-s)) for s in (0.8, 1.8, 0.1, -4.2)]
    expected = [s - 0.8 * h * (1 - h) for s, h in zip((0.8, 1.8, 0.1, -4.2), held, strict=True)]
    assert layer.state("movement") == pytest.approx(expected)
    assert layer.mask == [True, True, False, False]  # 0.63 and 1.70 are above 0.5


def test_soft_movement_stops_at_the_scheduled_sparsity():
    layer = Layer(
        WEIGHT, sparsity=0.25, strategy="movement", threshold={"name": "fixed", "theta": 10.0}, schedule=EACH_STEP
    )
    layer.step([-1.0, 1.0, 1.0, -1.0])
    assert layer.mask == [True, True, True, False]


def test_scores_add_up_in_any_layout_of_the_weights():
    sums = []
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        net = nn.Conv2d(3, 4, 3, bias=False).to(memory_format=layout)
        sgd = torch.optim.SGD(net.parameters(), lr=0.1)
        pruner = Pruner(net, sgd, sparsity=0.5, strategy="movement", schedule={"name": "one_shot", "begin": 2})
        for _ in range(2):
            net.weight.grad = torch.ones_like(net.weight)
            sgd.step()
            pruner.tick()
        sums.append((pruner.targets[0].state["movement"].clone(), pruner.masks.tensors[0].clone()))
    assert sums[0][0].any()
    assert torch.equal(sums[0][0], sums[1][0])
    assert torch.equal(sums[0][1], sums[1][1])
