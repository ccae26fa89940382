"""An early exit worked out by hand on two inputs: scores, confidence, exit and compute."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from lightning_dynprune.adaptive import Adapted, EarlyExits, place
from lightning_dynprune.adaptive.exits import ExitHead


def literal() -> nn.Sequential:
    """Return y = 3 relu(x), with an exit after the ReLU whose scores are relu(x), taken from a confidence of 0.8."""
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)).eval()
    head = ExitHead("vector", inputs=2, hidden=2, classes=2)
    with torch.no_grad():
        for layer, scale in ((net[0], 1.0), (net[2], 3.0), (head.hidden, 1.0), (head.output, 1.0)):
            layer.weight.copy_(scale * torch.eye(2))
            layer.bias.zero_()
    exits = EarlyExits(["1"], [head], cut_shares=[0.5], macs=8)
    exits.thresholds.fill_(0.8)
    place(net, exits)
    return net


def test_an_input_leaves_where_its_softmax_is_sure_and_the_other_runs_to_the_end():
    net = literal()
    # exp(2) / (exp(2) + exp(0)) = 0.881 is sure; exp(1) / (exp(1) + exp(0)) = 0.731 is not.
    x = torch.tensor([[2.0, -1.0], [-5.0, 1.0]])
    outcome = net.adaptive.outcome(net, x)
    assert outcome.path.tolist() == [0, 1]
    assert outcome.scores.tolist() == [[2.0, 0.0], [0.0, 3.0]]
    assert outcome.dense.tolist() == [[6.0, 0.0], [0.0, 3.0]]
    # Up to the cut 4 of 8 multiply-adds, the head 8 more, and the rest for the second input.
    assert outcome.compute.tolist() == [1.5, 2.0]
    adapted = Adapted(net)
    assert adapted(x).tolist() == [[2.0, 0.0], [0.0, 3.0]]
    assert adapted.runner().exits.tolist() == [0, 1]


@pytest.mark.parametrize(("first", "leaves"), [(math.log(4.01), True), (math.log(3.99), False)])
def test_the_confidence_is_the_largest_probability(first, leaves):
    adapted = Adapted(literal())  # p / (1 - p) = exp(first), and the threshold 0.8 is 4 / (1 + 4)
    adapted(torch.tensor([[first, 0.0]]))
    assert adapted.runner().exits.tolist() == [0 if leaves else 1]
    adapted(torch.tensor([[first, 0.0], [0.0, 0.0]]))
    assert adapted.runner().exits.tolist() == [0 if leaves else 1, 1]
