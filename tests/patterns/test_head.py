"""Attention heads: scored and pruned by hand, and in torch's own attention."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_dynprune.engine import Pruner
from tests.conformance.loop import Attending

NOW = {"name": "one_shot", "begin": 1}


def attending() -> Attending:
    """Return attention of 4 heads of 4 in one weight of queries, keys and values, head h scaled by h + 1."""
    torch.manual_seed(0)
    net = Attending()
    scale = torch.arange(1.0, 5.0).repeat_interleave(4).repeat(3)
    net.qkv.weight.data = scale[:, None].expand(48, 6).clone()
    return net


def test_the_smallest_heads_go_with_queries_keys_values_and_their_columns():
    net = attending()
    # 48 x 6 + 6 x 16 + 5 x 36 connections, a head has 12 x 6 + 6 x 4 = 96 of them.
    pruner = Pruner(net, sparsity=192 / 564, strategy="magnitude", schedule=NOW, pattern="head")
    pruner.tick()
    assert pruner.units.counts == [2]
    rows = (net.qkv.weight == 0).all(1).view(3, 4, 4)
    assert rows[:, :2].all()
    assert not rows[:, 2:].any()
    assert torch.equal((net.qkv.bias == 0).view(3, 4, 4), rows)
    assert (net.out.weight == 0).all(0).view(4, 4).all(1).tolist() == [True, True, False, False]
    assert pruner.sparsity == pytest.approx(192 / 564)


def test_what_heads_are_left_compute_the_same_alone():
    net = attending()
    Pruner(net, sparsity=0.34, strategy="magnitude", schedule=NOW, pattern="head").tick()
    x = torch.randn(2, 1, 6, 6)
    whole = net(x)
    keep = (net.qkv.weight != 0).all(1)
    columns = (net.out.weight != 0).any(0)
    narrow = Attending()
    narrow.load_state_dict(net.state_dict())
    narrow.heads = 2
    narrow.qkv.weight.data, narrow.qkv.bias.data = net.qkv.weight.data[keep], net.qkv.bias.data[keep]
    narrow.out.weight.data = net.out.weight.data[:, columns]
    assert torch.allclose(narrow(x), whole, atol=1e-5)


def test_torchs_attention_is_pruned_by_heads():
    class Module(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.attention = nn.MultiheadAttention(8, 4, batch_first=True)

        def forward(self, x):
            return self.attention(x, x, x)[0]

    net = Module()
    pruner = Pruner(net, sparsity=0.5, strategy="magnitude", schedule=NOW, pattern="head")
    pruner.tick()
    rows = (net.attention.in_proj_weight == 0).all(1).view(3, 4, 2).all(2)
    assert rows.sum(1).tolist() == [2, 2, 2]
    assert torch.equal(rows[0], rows[2])
    assert pruner.sparsity == pytest.approx(0.5)


def test_a_model_without_attention_is_refused():
    with pytest.raises(ValueError, match="pattern head: no unit of the model"):
        Pruner(nn.Linear(4, 4), sparsity=0.5, strategy="magnitude", schedule=NOW, pattern="head")
