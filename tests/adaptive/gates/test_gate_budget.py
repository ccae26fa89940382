"""Multiply-adds of gated layers, and the live channels that a budget leaves."""

from __future__ import annotations

import pytest
import torch

from lightning_dynprune.adaptive.gates.gate_budget import (
    between_levels,
    compute_of,
    counts_for,
    fixed_compute,
)
from lightning_dynprune.adaptive.gates.gate_layout import GatedLayer

LAYERS = [GatedLayer("a", "", 1, 64, 49, 0.2, 0.01, -1), GatedLayer("b", "", 64, 128, 49, 0.6, 0.02, 0)]


def test_a_layer_computes_live_outputs_of_live_inputs():
    # The rest .2, half of .2, a quarter of half of .6, and both gates.
    live = [torch.tensor([32, 64]), torch.tensor([32, 128])]
    assert compute_of(LAYERS, live).tolist() == pytest.approx([0.2 + 0.1 + 0.075 + 0.03, 1.03])


@pytest.mark.parametrize("budget", [0.25, 0.4, 0.7, 1.0])
def test_fixed_budgets_are_met_to_two_percent(budget):
    counts = counts_for(LAYERS, budget)
    assert 0.98 * budget <= fixed_compute(LAYERS, counts) <= budget
    assert all(1 <= count <= layer.outputs for count, layer in zip(counts, LAYERS, strict=True))


def test_a_budget_below_one_channel_a_layer_names_what_is_reachable():
    least = fixed_compute(LAYERS, [1, 1])
    with pytest.raises(ValueError, match=rf"budget=0\.2 is out of reach.*{least:.4f}"):
        counts_for(LAYERS, 0.2)


def test_thresholds_between_levels_are_in_proportion_and_the_reachable_is_named():
    thresholds, means = torch.tensor([[0.8, 0.6], [0.4, 0.2]]), torch.tensor([0.25, 0.75])
    found, compute = between_levels(thresholds, means, 0.375)
    assert found.tolist() == pytest.approx([0.7, 0.5])
    assert compute == 0.375
    assert between_levels(thresholds, means, 1.0)[1] == 0.75
    with pytest.raises(ValueError, match=r"budget=0\.2 is out of reach.*0\.2500"):
        between_levels(thresholds, means, 0.2)
