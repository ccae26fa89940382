"""Thresholds are chosen with the costs of the classifiers that they use, against a search of all combinations."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from lightning_dynprune.adaptive.cascade import judge
from lightning_dynprune.adaptive.widths import PrefixWidths


def module(seed: int, count: int = 12) -> PrefixWidths:
    """Return two costly classifiers, the second of which is hardly better than the first."""
    generator = torch.Generator().manual_seed(seed)
    sure = torch.rand(2, count, generator=generator)
    found = PrefixWidths([nn.Linear(1, 1), nn.Linear(1, 1)], [0.25, 0.5], [0.1, 0.6])
    right = torch.rand(2, count, generator=generator) < 0.3 + 0.7 * sure
    found.held_out_confidences = sure.double()
    found.held_out_correct = torch.cat([right, torch.rand(1, count, generator=generator) < 0.9])
    return found


def everything(found: PrefixWidths) -> list:
    """Return what every pair of thresholds gives, by the costs of the classifiers in use."""
    rows = [[*row.tolist(), math.inf] for row in found.held_out_confidences]
    judged = []
    for thresholds in itertools.product(*rows):
        costs = found.costs_with([threshold < math.inf for threshold in thresholds])
        judged.append(judge(replace(found.held_out, costs=costs), thresholds))
    return judged


@pytest.mark.parametrize("seed", range(5))
def test_the_cheapest_within_a_drop_is_found_with_a_classifier_left_out(seed):
    found = module(seed)
    found.limit_drop(0.1, margin=0.0)
    allowed = [each.compute for each in everything(found) if each.drop <= 0.1 + 1e-12]
    assert found.chosen.compute == pytest.approx(min(allowed))


@pytest.mark.parametrize("seed", range(5))
def test_the_most_accurate_within_the_band_of_a_budget_is_found_with_a_classifier_left_out(seed):
    found = module(seed)
    found.budget(0.6)
    allowed = [each for each in everything(found) if each.compute <= 0.6 + 1e-12]
    band = [each for each in allowed if each.compute >= 0.588]
    if band:
        assert found.chosen.drop == pytest.approx(min(each.drop for each in band))
        assert 0.588 <= found.chosen.compute <= 0.6 + 1e-12
    else:
        assert found.chosen.compute == pytest.approx(max(each.compute for each in allowed))


def test_a_budget_below_the_cheapest_way_names_what_is_reachable():
    with pytest.raises(ValueError, match=r"budget=0\.05 is out of reach.*0\.1000"):
        module(0).budget(0.05)


def test_without_held_out_inputs_no_budget_can_be_set():
    with pytest.raises(ValueError, match="budget: no held-out inputs are known"):
        PrefixWidths([nn.Linear(1, 1)], [0.5], [0.3]).budget(0.5)
