"""Blocks: pooled, expanded, refused, and the edge that is left dense."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lightning_dynprune.engine import Pruner
from lightning_dynprune.patterns import Block
from lightning_dynprune.targets import Target, find_targets


def target(*shape: int, transposed: bool = False) -> Target:
    return Target("w", nn.Parameter(torch.zeros(shape)), transposed=transposed)


def test_a_block_scores_its_mean_and_spans_rows_and_columns():
    scores = torch.arange(16.0).view(4, 4)
    pattern = Block(rows=2, columns=2)
    assert pattern.pool(target(4, 4), scores).tolist() == [2.5, 4.5, 10.5, 12.5]
    mask = pattern.expand(target(4, 4), torch.tensor([True, False, False, True]))
    assert mask.int().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]


def test_the_edge_is_kept_where_it_is_padded():
    pattern = Block(rows=2, columns=1, pad=True)
    assert pattern.num_uncovered(target(5, 3)) == 3
    mask = pattern.expand(target(5, 3), torch.zeros(6, dtype=torch.bool))
    assert mask.int().tolist() == [[0] * 3] * 4 + [[1] * 3]


def test_blocks_of_a_transposed_convolution_lie_along_its_outputs():
    scores = torch.zeros(2, 4, 1, 1)  # 2 inputs, 4 outputs
    scores[1, 2:] = 1.0
    pattern = Block(rows=2)
    pooled = pattern.pool(target(2, 4, 1, 1, transposed=True), scores)
    assert pooled.tolist() == [0.0, 0.0, 0.0, 1.0]
    mask = pattern.expand(target(2, 4, 1, 1, transposed=True), pooled > 0.5)
    assert torch.equal(mask, scores > 0.5)


@given(
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 7),
    st.lists(st.integers(1, 6), min_size=1, max_size=3),
    st.data(),
)
def test_what_is_pooled_from_a_mask_expands_to_it(rows, columns, outputs, rest, data):
    pattern, weight = Block(rows, columns, pad=True), target(outputs, *rest)
    units = pattern.pool(weight, torch.zeros(outputs, *rest)).numel()
    keep = torch.tensor(data.draw(st.lists(st.booleans(), min_size=units, max_size=units)), dtype=torch.bool)
    mask = pattern.expand(weight, keep)
    assert mask.shape == weight.parameter.shape
    assert torch.equal(pattern.pool(weight, mask.float()) > 0.5, keep)
    assert int((~mask).sum()) == int((~keep).sum()) * pattern.size
    assert weight.numel - units * pattern.size == pattern.num_uncovered(weight)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rows": 32}, r"rows=32 does not divide the 20 of 0\.weight; accepted are 1, 2, 4, 5, 10, 20"),
        ({"rows": 5, "columns": 3}, r"columns=3 does not divide the 8 of 0\.weight; accepted are 1, 2, 4, 8"),
    ],
)
def test_shapes_that_do_not_divide_are_refused_with_what_would_do(settings, message):
    with pytest.raises(ValueError, match=message):
        Pruner(nn.Sequential(nn.Linear(8, 20)), sparsity=0.5, pattern={"name": "block", **settings}, total_steps=10)


def test_a_sparsity_that_edges_put_out_of_reach_is_refused():
    net = nn.Sequential(nn.Linear(10, 15))
    message = r"sparsity=0.9 is out of reach of pattern block 8x1.* 0\.533333 is the highest sparsity"
    with pytest.raises(ValueError, match=message):
        Pruner(net, sparsity=0.9, pattern={"name": "block", "rows": 8, "pad": True}, total_steps=10)


def test_the_sparsity_counts_the_dense_edge():
    net = nn.Sequential(nn.Linear(10, 20))
    schedule = {"name": "one_shot", "begin": 1}
    pruner = Pruner(
        net, sparsity=0.5, pattern={"name": "block", "rows": 8, "pad": True}, strategy="magnitude", schedule=schedule
    )
    pruner.tick()
    # 100 of 200 connections are 12.5 blocks of 8.
    assert int((net[0].weight == 0).sum()) in (96, 104)
    assert bool((net[0].weight[16:] != 0).all())


def test_a_bias_has_no_blocks():
    net = nn.Sequential(nn.Linear(8, 8))
    with pytest.raises(ValueError, match=r"0\.bias has 1 dimension"):
        Pruner(net, sparsity=0.5, pattern={"name": "block", "rows": 8}, targets=["0.weight", "0.bias"], total_steps=9)
    padded = {"name": "block", "rows": 8, "pad": True}
    pruner = Pruner(
        net,
        sparsity=0.5,
        pattern=padded,
        targets=["0.*"],
        strategy="magnitude",
        schedule={"name": "one_shot", "begin": 1},
    )
    pruner.tick()
    assert bool((net[0].bias != 0).all())
    assert find_targets(net)[0].name == "0.weight"
