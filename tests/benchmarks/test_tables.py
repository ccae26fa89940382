"""Tables of the benchmarks, and what goes into them, on records written out by hand."""

from __future__ import annotations

import doctest
import struct
from pathlib import Path
from types import ModuleType

import mnist_records
import narrow
import new_data
import pytest
import runs
import savings
import strategies
import torch
from torch import nn


def test_our_records_stand_among_the_published_by_compression() -> None:
    records = {
        f"lenet_300_100_56x, seed {seed}": {"test_error": error, "compression": 56.1}
        for seed, error in enumerate((0.0178, 0.0191, 0.0181))
    }
    records["LeNet-300-100 dense"] = {"test_error": 0.0149}
    lines = mnist_records.table(records).splitlines()

    ours = "| LeNet-300-100 | **56.1x** | **1.83 % (1.78-1.91)** | dynprune recipe=lenet_300_100_56x, 3 seeds |"
    place = lines.index(ours)
    assert "| 55x | 1.98 % |" in lines[place - 1]
    assert "| 68x | 1.92 % |" in lines[place + 1]
    assert lines[2] == "| LeNet-300-100 | 1x | 1.49 % | without pruning, the same settings, 1 seed |"


def test_a_missed_aim_is_said() -> None:
    assert "MISSED with 1.910 %" in mnist_records.aims({"lenet_300_100_56x, seed 0": {"test_error": 0.0191}})
    assert "met with 1.900 %" in mnist_records.aims({"lenet_300_100_56x, seed 0": {"test_error": 0.0190}})


def test_the_best_of_a_column_is_bold_and_the_unfinished_a_dash() -> None:
    records = {
        "ConvNet, dense, seed 0": {"test_error": 0.14, "settings": {"trainer.max_epochs": 4, "data.holdout": 40_000}},
        "ConvNet, rigl, 90 %, seed 0": {"test_error": 0.20},
        "ConvNet, rigl, 90 %, seed 1": {"test_error": 0.18},
        "ConvNet, set, 90 %, seed 0": {"test_error": 0.22},
    }
    table = strategies.table(records)

    assert "ConvNet, 4 epochs of 20,000 images; dense: 86.00" in table
    assert "| rigl | **81.00** ± 1.00 | - | - | - |" in table
    assert "| set | 78.00 | - | - | - |" in table


def test_every_pair_of_labels_is_a_gap_apart_and_inside() -> None:
    order, placed = strategies.spread_out([0.0, 1.0, 50.0, 99.0, 100.0, 100.0], gap=10, bottom=0, top=100)

    assert order == [0, 1, 2, 3, 4, 5]
    assert placed == [0, 10, 50, 80, 90, 100]


def test_the_figure_is_drawn_with_a_label_for_each_line(tmp_path: Path) -> None:
    records = {
        strategies.name(net, label, sparsity, seed): {"test_error": 0.1 + 0.001 * number + 0.01 * seed}
        for net in strategies.NETS
        for number, label in enumerate([strategies.DENSE, *strategies.METHODS])
        for sparsity in ([None] if label == strategies.DENSE else strategies.SPARSITIES)
        for seed in strategies.SEEDS
    }
    strategies.draw(records, tmp_path / "figure.png")

    width, height = struct.unpack(">II", (tmp_path / "figure.png").read_bytes()[16:24])
    assert width > height > 500


def test_pruning_by_epochs_reaches_the_sparsity_along_the_default_schedule() -> None:
    left = [1.0]
    for amount in strategies.amounts_by_epoch(0.95, 8):
        left.append(left[-1] * (1 - amount))

    # 1 - 0.95 * (1 - (1 - progress)^3) for progress 0, 1/4, 1/2, 3/4, 1 after epochs 2 to 6.
    assert left == pytest.approx([1, 1, 1, 0.450781, 0.16875, 0.064844, 0.05, 0.05, 0.05], abs=1e-6)


@pytest.mark.parametrize("sparsity", [0.9, 0.95, 0.98, 0.99])
def test_a_narrow_network_has_no_more_parameters_than_the_pruned_one_keeps(sparsity: float) -> None:
    lenet = narrow.NarrowLeNet((1, 28, 28), 10, 0.0, narrow.lenet_widths(sparsity))
    convnet = narrow.NarrowConvNet((1, 28, 28), 10, narrow.convnet_widths(sparsity))

    assert 0.7 < size(lenet) / (266_200 * (1 - sparsity) + 410) <= 1
    assert 0.7 < size(convnet) / (6_032 * (1 - sparsity) + 106) <= 1
    assert lenet(torch.zeros(2, 1, 28, 28)).shape == convnet(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def size(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_gains_are_taken_seed_by_seed() -> None:
    records = {
        "frozen masks, seed 0": {"test_error": 0.20},
        "frozen masks, seed 1": {"test_error": 0.30},
        "rigl, seed 0": {"test_error": 0.18},
        "rigl, seed 1": {"test_error": 0.31},
    }

    assert new_data.verdict(records) == "rigl against frozen masks, at the end: +0.50 points (+2.00, -1.00)"


def test_seen_pixels_are_those_with_a_living_connection() -> None:
    assert new_data.seen_pixels(torch.tensor([[True, False, False], [True, False, True]])) == 2


@pytest.mark.parametrize("module", [mnist_records, narrow, new_data, runs, savings, strategies])
def test_the_examples_in_the_docstrings_hold(module: ModuleType) -> None:
    tried = doctest.testmod(module)

    assert tried.attempted > 0
    assert tried.failed == 0
