"""Gates against the published formula, computed by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_dynprune.adaptive.gates import ChannelGate
from lightning_dynprune.adaptive.gates.gate import above, gated, largest
from lightning_dynprune.adaptive.gates.gated_convolution import GatedConvolution


def gate_of(weight: list, bias: list) -> ChannelGate:
    gate = ChannelGate(len(weight[0]), len(weight))
    with torch.no_grad():
        gate.saliency.weight.copy_(torch.tensor(weight))
        gate.saliency.bias.copy_(torch.tensor(bias))
    return gate


def test_a_gate_is_the_relu_of_weighted_channel_means():
    gate = gate_of([[1.0, 0.0], [0.0, -1.0], [0.5, 0.5]], [0.0, 1.0, 1.0])
    x = torch.tensor([[[[1.0, 3.0]], [[4.0, 0.0]]]])  # means 2 and 2
    assert gate(x).tolist() == [[2.0, 0.0, 3.0]]


def test_all_channels_of_a_new_gate_are_near_one():
    values = ChannelGate(4, 8)(torch.randn(5, 4, 3, 3, generator=torch.Generator().manual_seed(0)))
    assert torch.allclose(values, torch.ones(5, 8), atol=0.1)


def test_the_largest_gates_of_each_input_are_live():
    values = torch.tensor([[0.3, 0.0, 0.9, 0.4], [0.0, 0.0, 0.1, 0.0]])
    assert largest(values, 2)[0].tolist() == [0, 0, 1, 1]
    assert largest(values, 2).sum(1).tolist() == [2, 2]
    assert above(values, 0.35).tolist() == [[0, 0, 1, 1], [0, 0, 1, 0]]
    assert above(torch.zeros(1, 3), 0.0).sum() == 1


def test_the_output_is_the_published_one_where_the_norm_has_no_scale():
    torch.manual_seed(0)
    convolution, norm = nn.Conv2d(2, 4, 3, bias=False).eval(), nn.BatchNorm2d(4).eval()
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    with torch.no_grad():
        norm.bias.normal_()
    gate, x = ChannelGate(2, 4, seed=1), torch.randn(3, 2, 6, 6)
    with torch.no_grad():
        gate.saliency.weight.mul_(50)
        g = torch.relu(x.mean((2, 3)) @ gate.saliency.weight.T + gate.saliency.bias)
        kept = g >= g.topk(2, dim=1).values[:, -1:]
        pi = kept.float()[:, :, None, None]
        mean, deviation = norm.running_mean[:, None, None], (norm.running_var + norm.eps).sqrt()[:, None, None]
        normed = (convolution(x) - mean) / deviation
        expected = torch.relu(pi * g[:, :, None, None] * normed + pi * norm.bias[:, None, None])
        found = torch.relu(gated(norm(convolution(x)), norm.bias, gate(x), largest(gate(x), 2)))
        assert torch.allclose(found, expected, atol=1e-6)
        fast = GatedConvolution(convolution, norm, gate, count=2, threshold=0.0)
        assert torch.allclose(torch.relu(fast(x)), expected, atol=1e-6)
        fast.gathers = True
        alone = torch.cat([torch.relu(fast(each)) for each in x.split(1)])
        assert torch.allclose(alone, expected, atol=1e-6)


@pytest.mark.parametrize("bias", [True, False])
def test_without_a_norm_the_bias_of_the_convolution_is_kept_whole(bias):
    torch.manual_seed(0)
    convolution, gate = nn.Conv2d(2, 4, 3, stride=2, padding=1, bias=bias), gate_of([[0.0, 0.0]] * 4, [2, 0.5, 1, 0.1])
    x = torch.randn(1, 2, 5, 5)
    fast = GatedConvolution(convolution, None, gate, count=0, threshold=0.7)
    with torch.no_grad():
        shift = convolution.bias[:, None, None] if bias else 0.0
        expected = (convolution(x) - shift) * torch.tensor([2.0, 0, 1, 0])[:, None, None]
        expected = expected + shift * torch.tensor([1.0, 0, 1, 0])[:, None, None]
        for fast.gathers in (False, True):
            assert torch.allclose(fast(x), expected, atol=1e-6)


def test_live_channels_of_the_source_alone_are_read():
    torch.manual_seed(0)
    first = GatedConvolution(nn.Conv2d(1, 4, 3), None, ChannelGate(1, 4), count=2, threshold=0.0)
    second = GatedConvolution(nn.Conv2d(4, 3, 3), None, ChannelGate(4, 3), count=3, threshold=0.0, source=first)
    x = torch.randn(1, 1, 7, 7)
    with torch.no_grad():
        expected = second(first(x))
        first.gathers = second.gathers = True
        y = first(x)
        assert sorted(first.live.tolist()) == sorted(y[0].flatten(1).any(1).nonzero()[:, 0].tolist())
        assert torch.allclose(second(y), expected, atol=1e-6)
        second.rows[:, [c for c in range(4) if c not in first.live.tolist()]] = torch.nan
        assert second(y).isfinite().all(), "a weight of a channel that is not live was read"
