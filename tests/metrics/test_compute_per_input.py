"""Compute per input, shares of ways and densities of layers, against literal numbers."""

from __future__ import annotations

import math

import pytest
import torch

from lightning_dynprune.metrics import ComputePerInput, LayerDensity, PathShares
from tests.processes.group import together


def test_quantiles_halves_and_rank_correlation_are_those_of_all_batches_together():
    metric = ComputePerInput()
    metric.update(torch.tensor([0.1, 0.1]), torch.tensor([0.0, 1.0]), torch.tensor([True, False]))
    metric.update(torch.tensor([0.4, 1.0]), torch.tensor([3.0, 2.0]), torch.tensor([False, True]))
    found = {name: float(value) for name, value in metric.compute().items()}
    assert found["compute_mean"] == pytest.approx(0.4)
    assert found["compute_p5"] == pytest.approx(0.1)
    assert found["compute_p95"] == pytest.approx(0.91)
    assert (found["accuracy"], found["accuracy_easy"], found["accuracy_hard"]) == (0.5, 0.5, 0.5)
    # Ranks 1.5, 1.5, 3, 4 of compute and 1, 2, 4, 3 of loss: 3.5 / sqrt(4.5 * 5).
    assert found["rank_correlation"] == pytest.approx(3.5 / math.sqrt(22.5))


def test_equal_compute_has_no_rank_correlation_and_no_inputs_no_mean():
    metric = ComputePerInput()
    with pytest.raises(ValueError, match="no inputs"), pytest.warns(UserWarning, match="before"):
        metric.compute()
    metric.update(torch.ones(3), torch.arange(3.0), torch.ones(3, dtype=torch.bool))
    assert math.isnan(float(metric.compute()["rank_correlation"]))
    with pytest.raises(ValueError, match=r"have the shapes \[\(3,\), \(2,\), \(3,\)\]"):
        metric.update(torch.ones(3), torch.ones(2), torch.ones(3))


def _mean_of_two(rank: int) -> float:
    metric = ComputePerInput()
    for spent in [0.2, 0.4][: rank + 1]:
        metric.update(torch.full((2,), spent), torch.arange(2.0), torch.ones(2, dtype=torch.bool))
    return float(metric.compute()["compute_mean"])


def test_inputs_of_all_processes_are_counted_however_many_batches_each_has(tmp_path):
    assert together(2, _mean_of_two, tmp_path) == [pytest.approx(0.8 / 3)] * 2


def test_ways_that_no_input_takes_have_no_accuracy():
    metric = PathShares(3)
    metric.update(torch.tensor([0, 2, 2]), torch.tensor([True, False, True]))
    shares, accuracies = metric.compute()
    assert shares.tolist() == pytest.approx([1 / 3, 0, 2 / 3])
    assert accuracies[[0, 2]].tolist() == [1.0, 0.5]
    assert math.isnan(float(accuracies[1]))
    with pytest.raises(ValueError, match="path from 3 to 3: give 0 to 2"):
        metric.update(torch.tensor([3]), torch.tensor([True]))
    with pytest.raises(ValueError, match="ways=0"):
        PathShares(0)


def test_densities_are_means_over_inputs_by_layer():
    metric = LayerDensity(["a", "b"])
    metric.update({"b": torch.tensor([0.5]), "a": torch.tensor([1.0])})
    metric.update({"a": torch.tensor([0.25, 0.25]), "b": torch.tensor([0.5, 0.5])})
    assert {name: float(value) for name, value in metric.compute().items()} == {"a": 0.5, "b": 0.5}
    with pytest.raises(ValueError, match=r"densities are of \['a'\]; give those of \['a', 'b'\]"):
        metric.update({"a": torch.ones(1)})
    assert LayerDensity([]).compute() == {}
