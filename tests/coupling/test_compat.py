"""The parts of Torch-Pruning's dependency graph that the room reads are there and mean what they did."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_dynprune.coupling.compat import DependencyGraph, Member

pytest.importorskip("torch_pruning")


def test_the_graph_lists_every_layer_that_shares_channels_with_the_first():
    first, norm, last = nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)
    net, unused = nn.Sequential(first, norm, last), nn.Linear(4, 4)
    graph = DependencyGraph(net, torch.ones(2, 3), lambda model, example: [model(example)])
    assert first in graph
    assert unused not in graph
    every = [0, 1, 2, 3]
    members = {member.module: member for member in graph.members(first, 4)}
    assert members[first] == Member(first, True, every, every)
    assert members[norm] == Member(norm, True, every, every)
    assert members[last] == Member(last, False, every, every)
