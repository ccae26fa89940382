"""Inputs of the logged metrics: as many connections and zeros as the run has."""

from __future__ import annotations

import torch
from torch import nn

from lightning_dynprune.callback.metric_inputs import compression_inputs, sparsity_inputs
from lightning_dynprune.engine import Pruner


def pruned() -> tuple[nn.Linear, Pruner, dict[str, torch.Tensor]]:
    net = nn.Linear(4, 2, bias=False)
    pruner = Pruner(net, sparsity=0.75, strategy="magnitude", schedule={"name": "one_shot", "begin": 1})
    pruner.tick()
    return net, pruner, {"weight": pruner.masks.tensors[0]}


def test_masks_are_counted_as_they_are_where_nothing_was_slimmed_away():
    _, pruner, masks = pruned()
    assert sparsity_inputs(pruner, masks) == [masks]


def test_connections_that_were_slimmed_away_count_as_pruned():
    _, pruner, masks = pruned()
    pruner.masks.original_numel = [12]
    inputs = [counted["weight"] for counted in sparsity_inputs(pruner, masks)]
    assert sum(mask.numel() for mask in inputs) == 12
    assert sum(int(mask.sum()) for mask in inputs) == 2


def test_entries_that_were_slimmed_away_count_as_zeros_of_the_parameters():
    net, pruner, _ = pruned()
    plain, slim = (compression_inputs(net, pruner, removed) for removed in (0, 5))
    assert [tensor.numel() for tensors in plain for tensor in tensors] == [8]
    assert [tensor.numel() for tensors in slim for tensor in tensors] == [8, 5]
    assert not slim[1][0].any()
