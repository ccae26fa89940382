"""Attention heads that share keys, values or position biases, and projections that stand in another module."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_dynprune.coupling import (
    CouplingError,
    attention_heads,
    explain_heads,
    failing_groups,
    isolated,
    output_difference,
)


class GroupedQuery(nn.Module):
    """Grouped-query attention as LLaMA has it; returns keys and values as a cache."""

    def __init__(self, width=8, heads=4, key_heads=2, size=2):
        super().__init__()
        self.head_dim, self.num_key_value_groups = size, heads // key_heads
        self.q_proj, self.k_proj = nn.Linear(width, heads * size), nn.Linear(width, key_heads * size)
        self.v_proj, self.o_proj = nn.Linear(width, key_heads * size), nn.Linear(heads * size, width)

    def forward(self, x):
        q, k, v = (
            layer(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        repeated = (t.repeat_interleave(self.num_key_value_groups, dim=1) for t in (k, v))
        attended = F.scaled_dot_product_attention(q, *repeated).transpose(1, 2).flatten(2)
        return {"output": self.o_proj(attended), "cache": (k, v)}


def index_of(group):
    return {axis.name: (axis.dim, axis.writes, axis.index.tolist()) for axis in group.axes if "bias" not in axis.name}


def fails(model, groups, example):
    with isolated(model):
        return failing_groups(model, example, groups)


def test_a_group_of_query_heads_goes_with_its_head_of_keys_and_values():
    network = GroupedQuery()
    (group,) = attention_heads(network)
    keys, queries = [[0, 1], [2, 3]], [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert index_of(group) == {
        "k_proj.weight": (0, True, keys),
        "q_proj.weight": (0, True, queries),
        "v_proj.weight": (0, True, keys),
        "o_proj.weight": (1, False, queries),
    }
    assert (group.name, group.units, group.width_attributes, group.share_values) == ("k_proj.weight", 2, (), False)
    assert fails(network, [group], torch.randn(2, 5, 8)) == {}


def test_every_group_can_lose_the_query_head_at_one_place():
    network = GroupedQuery(heads=6)
    (group,) = attention_heads(network, grouped_query="queries")
    queries = [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11]]
    assert index_of(group) == {"q_proj.weight": (0, True, queries), "o_proj.weight": (1, False, queries)}
    assert (group.units, group.width_attributes, group.share_values) == (3, ("num_key_value_groups",), True)
    assert fails(network, [group], torch.randn(2, 5, 8)) == {}


def test_multi_query_attention_loses_single_query_heads():
    network = GroupedQuery(key_heads=1)
    (group,) = attention_heads(network)
    assert (group.name, group.units, group.share_values) == ("q_proj.weight", 4, True)
    assert fails(network, [group], torch.randn(2, 5, 8)) == {}


def test_attributes_in_proportion_to_the_heads_follow():
    network = GroupedQuery(heads=6)
    network.num_heads, network.num_key_value_heads, network.inner_dim = 6, 2, 12
    (whole,), (queries,) = attention_heads(network), attention_heads(network, grouped_query="queries")
    assert whole.width_attributes == ("num_heads", "inner_dim", "num_key_value_heads")
    assert queries.width_attributes == ("num_heads", "inner_dim", "num_key_value_groups")


def test_keys_whose_heads_do_not_divide_those_of_the_queries_are_named():
    network = GroupedQuery(heads=4, key_heads=2)
    network.num_heads = 1
    with pytest.raises(CouplingError, match="has 1 query heads of 8 channels, and keys of 4"):
        attention_heads(network)


class Beside(nn.Module):
    """Attention whose output projection stands in the module beside it, as BERT's."""

    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.num_attention_heads, self.all_head_size = 4, 8
            self.query, self.key, self.value = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            q, k, v = (
                layer(x).view(*x.shape[:2], self.num_attention_heads, 2).transpose(1, 2)
                for layer in (self.query, self.key, self.value)
            )
            return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(*x.shape[:2], self.all_head_size)

    def __init__(self):
        super().__init__()
        self.self, self.output = self.Own(), nn.ModuleDict({"dense": nn.Linear(8, 8)})
        self.unlike = nn.Linear(8, 3)

    def forward(self, x):
        return self.unlike(x + self.output["dense"](self.self(x)))


def test_an_output_projection_in_another_module_is_found():
    network = nn.Sequential(nn.Linear(8, 8), Beside())
    (group,) = attention_heads(network)
    assert [axis.name for axis in group.axes if not axis.writes] == ["1.output.dense.weight"]
    assert group.width_attributes == ("1.self.num_attention_heads", "1.self.all_head_size")
    assert fails(network, [group], torch.randn(2, 5, 8)) == {}


class Positioned(nn.Module):
    """Attention with a table of position biases, or with the bias of another one, as T5's."""

    def __init__(self, has_table):
        super().__init__()
        self.n_heads = 4
        self.q, self.k, self.v, self.o = (nn.Linear(8, 8, bias=False) for _ in range(4))
        if has_table:
            self.relative_attention_bias = nn.Embedding(9, 4)

    def forward(self, x, bias=None):
        if bias is None:
            places = torch.arange(x.shape[1])
            bias = self.relative_attention_bias(places[:, None] - places + x.shape[1] - 1).permute(2, 0, 1)
        q, k, v = (t(x).view(*x.shape[:2], self.n_heads, 2).transpose(1, 2) for t in (self.q, self.k, self.v))
        return self.o(F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).flatten(2)), bias


class Stack(nn.Module):
    def __init__(self, tables=(True, False, False)):
        super().__init__()
        self.block = nn.ModuleList(Positioned(has_table) for has_table in tables)

    def forward(self, x):
        bias = None
        for block in self.block:
            y, shared = block(x, bias)
            x, bias = x + y, None if all(hasattr(b, "relative_attention_bias") for b in self.block) else shared
        return x


def test_layers_that_share_a_table_of_position_biases_lose_the_same_heads():
    network = Stack()
    (group,) = attention_heads(network)
    assert (group.name, group.units, group.modules) == ("block.0.q.weight", 4, ("block.0", "block.1", "block.2"))
    assert group.width_attributes == ("block.0.n_heads", "block.1.n_heads", "block.2.n_heads")
    (table,) = (axis for axis in group.axes if "relative" in axis.name)
    assert (table.name, table.dim, table.writes) == ("block.0.relative_attention_bias.weight", 1, False)
    assert table.index.tolist() == [[0], [1], [2], [3]]
    assert fails(network, [group], torch.randn(2, 5, 8)) == {}


def test_layers_with_a_table_each_lose_their_own_heads():
    network = Stack((True, True))
    groups = attention_heads(network)
    assert [group.modules for group in groups] == [("block.0",), ("block.1",)]
    assert fails(network, groups, torch.randn(2, 5, 8)) == {}


class Interleaved(nn.Module):
    """Queries, keys and values of each head in a row, as GPT-NeoX stores them, and not one after the other."""

    def __init__(self):
        super().__init__()
        self.num_heads = 4
        self.qkv, self.out_proj = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (self.num_heads, 3, -1)).permute(3, 0, 2, 1, 4)[[0, 1, 2]]
        return self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def test_heads_in_another_order_are_found_out_and_named():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(8, 8), Interleaved())
    (group,) = attention_heads(network)
    reason = fails(network, [group], torch.randn(2, 5, 8))[group.name]
    assert "removing them while they are zero changes the outputs" in reason
    text = explain_heads(network, group, reason)
    assert "Interleaved '1' does not compute the same with fewer heads" in text
    assert "give heads={'1': 0}" in text


def test_a_module_whose_part_of_the_outputs_is_small_is_found_out_too():
    class Small(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = Interleaved()

        def forward(self, x):
            return x + 1e-6 * self.attention(x)

    torch.manual_seed(0)
    network = Small()
    (group,) = attention_heads(network)
    assert fails(network, [group], torch.randn(2, 5, 8))


def test_outputs_with_an_entry_a_head_are_compared_on_the_heads_that_stay():
    (group,) = attention_heads(GroupedQuery())
    kept = [torch.tensor([False, True])]
    cache, maps = torch.randn(1, 2, 3, 2), torch.randn(1, 4, 3, 3)
    assert output_difference([cache, maps], [cache[:, 1:], maps[:, 2:]], [group], kept) == 0
    assert output_difference([cache], [cache[:, :1]], [group], kept) > 0
    assert output_difference([maps], [maps[:, 1:]], [group], kept) == float("inf")
    assert output_difference([cache], [cache, cache], [group], kept) == float("inf")
