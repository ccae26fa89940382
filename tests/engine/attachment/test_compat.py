"""The private dictionaries of torch's modules that the checks read are there and follow every change."""

from __future__ import annotations

from torch import nn

from lightning_dynprune.engine.attachment.compat import children_of, parameters_of


def test_the_dictionaries_follow_replacements():
    net = nn.Sequential(nn.Linear(2, 2))
    children, parameters = children_of(net), parameters_of(net[0])
    assert children["0"] is net[0]
    assert parameters["weight"] is net[0].weight

    net[0].weight = nn.Parameter(net[0].weight.detach().clone())
    assert parameters["weight"] is net[0].weight
    net[0] = nn.Linear(2, 2)
    assert children["0"] is net[0]
    assert children_of(net) is children
