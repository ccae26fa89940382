"""Thresholds are the best there are, against a search of all combinations."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from lightning_dynprune.adaptive import EarlyExits
from lightning_dynprune.adaptive.cascade import HeldOut, exits_taken, for_budget, for_largest_drop, judge
from lightning_dynprune.adaptive.exits import ExitHead

COSTS = (0.1, 0.3, 0.6, 1.05)


def held_out(exits: int, count: int, seed: int, ties: bool = False) -> HeldOut:
    generator = torch.Generator().manual_seed(seed)
    sure = torch.rand(exits, count, generator=generator)
    sure = (sure * 8).round() / 8 if ties else sure
    correct = torch.rand(exits, count, generator=generator) < 0.4 + 0.6 * sure
    final = torch.rand(count, generator=generator) < 0.9
    return HeldOut(sure.double(), correct, final, (*COSTS[:exits], 1.05))


def all_combinations(found: HeldOut):
    rows = [[*row.unique().tolist(), math.inf] for row in found.confidences]
    return [judge(found, thresholds) for thresholds in itertools.product(*rows)]


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("exits", "count"), [(1, 40), (2, 20), (3, 9)])
def test_the_cheapest_within_a_drop_is_found(exits, count, ties):
    for seed in range(3):
        found = held_out(exits, count, seed, ties)
        best = for_largest_drop(found, max_drop=0.05, margin=0.5)
        allowed = [each for each in all_combinations(found) if each.drop + 0.5 * each.error <= 0.05 + 1e-12]
        assert best.compute == pytest.approx(min(each.compute for each in allowed))
        assert best.drop + 0.5 * best.error <= 0.05 + 1e-12


@pytest.mark.parametrize(("exits", "count"), [(1, 60), (2, 20), (3, 9)])
def test_the_most_accurate_within_the_band_of_a_budget_is_found(exits, count):
    for seed in range(3):
        found = held_out(exits, count, seed)
        best = for_budget(found, 0.5)
        everything = [each for each in all_combinations(found) if each.compute <= 0.5 + 1e-12]
        band = [each for each in everything if each.compute >= 0.49]
        assert best.compute <= 0.5 + 1e-12
        if band:
            assert best.compute >= 0.49
            assert best.drop == pytest.approx(min(each.drop for each in band))


@pytest.mark.parametrize("budget", [0.2, 0.4, 0.7, 1.0])
def test_a_budget_is_met_to_two_percent_on_many_inputs(budget):
    found = for_budget(held_out(2, 1000, seed=5), budget)
    assert 0.98 * budget <= found.compute <= budget


def test_a_budget_below_the_first_exit_names_what_is_reachable():
    with pytest.raises(ValueError, match=r"budget=0\.05 is out of reach.*0\.1000"):
        for_budget(held_out(2, 10, 0), 0.05)


@pytest.mark.parametrize("budget", [0, -0.1, 1.5, "half", math.nan, True])
def test_a_budget_outside_zero_to_one_is_refused(budget):
    exits = EarlyExits(["0"], [ExitHead("vector", 2, 2, 2)], [0.1], 1)
    exits.held_out_confidences, exits.held_out_correct = torch.ones(1, 3).double(), torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises((ValueError, TypeError), match="budget="):
        exits.budget(budget)


def test_without_a_good_exit_every_input_runs_to_the_end():
    sure = torch.full((1, 8), 0.9, dtype=torch.float64)
    bad = HeldOut(sure, torch.zeros(1, 8, dtype=torch.bool), torch.ones(8, dtype=torch.bool), (0.1, 1.0))
    found = for_largest_drop(bad, 0.1)
    assert found.thresholds == (math.inf,)
    assert (found.compute, found.drop) == (1.0, 0.0)


def test_the_margin_counts_inputs_lost_and_won():
    # Of 4 inputs one is lost and one is won: no drop, with a standard error of sqrt((2 / 4) / 4).
    right = torch.tensor([[True, False, True, True]])
    final = torch.tensor([False, True, True, True])
    found = judge(HeldOut(torch.ones(1, 4, dtype=torch.float64), right, final, (0.1, 1.0)), [0.5])
    assert found.drop == 0
    assert found.error == pytest.approx(math.sqrt(0.125))


def test_equal_confidences_leave_together_and_one_that_is_no_number_never():
    sure = torch.tensor([[0.5, 0.5, math.nan, 0.2]], dtype=torch.float64)
    right = torch.tensor([[True, True, True, False]])
    found = for_largest_drop(HeldOut(sure, right, torch.ones(4, dtype=torch.bool), (0.1, 1.0)), 0.0)
    assert exits_taken(sure, found.thresholds).tolist() == [0, 0, 1, 1]


def test_a_threshold_is_the_same_in_single_precision():
    near = torch.tensor([[1.0, 1 - 2**-24, 1 - 2**-23]], dtype=torch.float32)
    right = torch.tensor([[True, False, False]])
    found = for_largest_drop(HeldOut(near.double(), right, torch.ones(3, dtype=torch.bool), (0.1, 1.0)), 0.0)
    (threshold,) = found.thresholds
    assert (near >= threshold).tolist() == [[True, False, False]]
    assert exits_taken(near, [threshold]).tolist() == [0, 1, 1]


def test_an_exit_that_is_not_used_costs_the_others_nothing():
    # The head of the first exit is 0.2 of the multiply-adds and never right, so a budget of 0.7 is met without it.
    exits = EarlyExits(["0", "1"], [ExitHead("vector", 4, 4, 2) for _ in range(2)], [0.1, 0.4], 120)
    generator = torch.Generator().manual_seed(0)
    exits.held_out_confidences = torch.rand(2, 1000, generator=generator).double()
    exits.held_out_correct = torch.ones(3, 1000, dtype=torch.bool)
    exits.held_out_correct[0] = False
    exits.budget(0.8)
    assert exits.thresholds[0] == math.inf
    assert exits.costs == pytest.approx((0.1, 0.6, 1.2))
    assert 0.98 * 0.8 <= exits.chosen.compute <= 0.8
