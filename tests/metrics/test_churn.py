"""Churn: the share of mask entries an update flipped."""

from __future__ import annotations

import pytest
import torch

from lightning_dynprune.metrics import Churn, churn

BEFORE = {"a": torch.tensor([[True, True], [False, False]]), "b": torch.tensor([True] * 6)}
AFTER = {"a": torch.tensor([[True, False], [True, False]]), "b": torch.tensor([True] * 5 + [False])}


def test_a_dropped_and_a_grown_connection_both_count():
    assert churn(BEFORE["a"], AFTER["a"]).item() == 0.5


def test_churn_is_flips_over_all_connections():
    assert churn(BEFORE, AFTER).item() == 3 / 10


def test_equal_masks_have_no_churn_and_opposite_masks_have_all():
    assert churn(BEFORE, BEFORE).item() == 0.0
    assert churn(BEFORE["a"], ~BEFORE["a"]).item() == 1.0


def test_masks_are_matched_by_name_not_by_order():
    assert churn(BEFORE, dict(reversed(AFTER.items()))).item() == 3 / 10


def test_class_agrees_with_function_and_averages_over_updates():
    metric = Churn()
    metric.update(BEFORE, AFTER)
    assert metric.compute().item() == churn(BEFORE, AFTER).item()
    metric.update(AFTER, AFTER)
    assert metric.compute().item() == 3 / 20


def test_masks_themselves_are_left_as_they_were():
    before, after = BEFORE["a"].clone(), AFTER["a"].clone()
    churn(before, after)
    assert before.equal(BEFORE["a"])
    assert after.equal(AFTER["a"])


def test_different_targets_are_refused():
    with pytest.raises(ValueError, match=r"before has masks \['a', 'b'\] and after has \['a'\]"):
        churn(BEFORE, {"a": AFTER["a"]})


def test_different_shapes_are_refused_even_where_they_would_broadcast():
    with pytest.raises(ValueError, match=r"before\['0'\] has shape \(2, 2\) and after\['0'\] \(2,\)"):
        churn(BEFORE["a"], torch.tensor([True, False]))


def test_the_argument_at_fault_is_named():
    with pytest.raises(TypeError, match=r"after\['0'\] is a torch.int64 tensor"):
        churn(torch.tensor([True]), torch.tensor([1]))
    with pytest.raises(ValueError, match="before has no entries"):
        Churn().update([], [])
