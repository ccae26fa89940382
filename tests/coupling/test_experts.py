"""Hidden channels of experts whose weights are stacked, in each layout that models use."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_dynprune import Pruner
from lightning_dynprune.coupling import Narrowing, coupled_groups
from lightning_dynprune.deploy import slim

EXPERTS, WIDTH, HIDDEN = 3, 5, 4


class Experts(nn.Module):
    """Every expert's output, summed; the weights stand in one of the layouts of transformers."""

    def __init__(self, columns_first=False, in_turns=False, with_bias=False):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        up, down = (EXPERTS, 2 * HIDDEN, WIDTH), (EXPERTS, WIDTH, HIDDEN)
        if columns_first:
            up, down = (EXPERTS, WIDTH, 2 * HIDDEN), (EXPERTS, HIDDEN, WIDTH)
        self.gate_up_proj = nn.Parameter(torch.randn(up, generator=generator))
        self.down_proj = nn.Parameter(torch.randn(down, generator=generator))
        if with_bias:
            self.gate_up_proj_bias = nn.Parameter(torch.randn(EXPERTS, 2 * HIDDEN, generator=generator))
        self.columns_first, self.in_turns, self.with_bias = columns_first, in_turns, with_bias

    def forward(self, x):
        up, down = (
            (self.gate_up_proj, self.down_proj) if self.columns_first else (self.gate_up_proj.mT, self.down_proj.mT)
        )
        y = x @ up
        if self.with_bias:
            y = y + self.gate_up_proj_bias.unsqueeze(1)
        gate, value = (y[..., ::2], y[..., 1::2]) if self.in_turns else y.chunk(2, dim=-1)
        y = (gate.sigmoid() * value) @ down
        return y.sum(0)


LAYOUTS = [
    {},
    {"in_turns": True},
    {"columns_first": True},
    {"columns_first": True, "in_turns": True, "with_bias": True},
    {"with_bias": True},
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: "+".join(layout) or "gates before values")
def test_the_layout_is_found_by_running_the_model(layout):
    network, x = nn.Sequential(Experts(**layout)), torch.randn(7, WIDTH)
    (group,) = coupled_groups(network, x).groups
    assert (group.name, group.units, group.modules) == ("0.gate_up_proj", HIDDEN, ("0",))
    index = {axis.name: (axis.dim, axis.index[1].tolist()) for axis in group.axes}
    first, second = (2, 1) if layout.get("columns_first") else (1, 2)
    positions = [2, 3] if layout.get("in_turns") else [1, 1 + HIDDEN]
    bias = {"0.gate_up_proj_bias": (1, positions)} if layout.get("with_bias") else {}
    assert index == {"0.gate_up_proj": (first, positions), **bias, "0.down_proj": (second, [1])}
    Narrowing(network).zero([group], [torch.tensor([True, False, True, False])])
    expected = network(x)
    assert slim(network, x).widths == {"0.gate_up_proj": (HIDDEN, 2)}
    assert torch.allclose(network(x), expected, atol=1e-5)


def test_experts_that_need_all_their_channels_are_left_out_by_name():
    class Position(Experts):
        def forward(self, x):
            return super().forward(x) * self.down_proj.shape[2]

    coupling = coupled_groups(nn.Sequential(Position()), torch.randn(7, WIDTH))
    assert coupling.groups == []
    assert "the experts of Position '0' stay: removing them" in coupling.left_out["0.gate_up_proj"]


def test_excluded_experts_keep_their_channels():
    coupling = coupled_groups(nn.Sequential(Experts()), torch.randn(7, WIDTH), exclude="0.down_proj")
    assert coupling.groups == []
    assert coupling.left_out["0.gate_up_proj"] == "'0.down_proj' is excluded"


@pytest.mark.parametrize("with_bias", [False, True])
def test_a_pruner_prunes_the_channels_of_all_experts(with_bias):
    network, x = nn.Sequential(Experts(with_bias=with_bias)), torch.randn(7, WIDTH)
    optimizer = torch.optim.Adam(network.parameters())
    network(x).sum().backward()
    optimizer.step()
    pruner = Pruner(
        network, optimizer, sparsity=0.5, strategy="magnitude", pattern="channel", example_input=x,
        schedule={"name": "one_shot", "begin": 1},
    )  # fmt: skip
    pruner.tick()
    expected = network(x)
    assert pruner.slim(x) == {"0.gate_up_proj": (HIDDEN, 2)}
    assert torch.allclose(network(x), expected, atol=1e-5)
    network(x).sum().backward()
    optimizer.step()
    assert network[0].gate_up_proj.shape == (EXPERTS, HIDDEN, WIDTH)
