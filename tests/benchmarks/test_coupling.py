"""The table and the aims of the comparison with Torch-Pruning, on figures written out by hand, and its turns."""

from __future__ import annotations

import io

import coupling
import torch
from rich.console import Console
from torch import nn

from lightning_dynprune.coupling import coupled_groups


def seconds(median: float) -> dict[str, float]:
    return {"median": median, "q1": median, "q3": median}


def tasks(coupling_ratio: float, slimming_ratio: float) -> dict[str, dict]:
    return {
        "coupling": {"ours": seconds(0.2), "Torch-Pruning": seconds(0.1), "ratio": seconds(coupling_ratio)},
        "verified": {"ours": seconds(0.3), "ratio": seconds(3.0)},
        "slimming": {"ours": seconds(0.4), "Torch-Pruning": seconds(0.1), "ratio": seconds(slimming_ratio)},
    }


def test_an_aim_is_missed_above_twice_the_time() -> None:
    reached = coupling.reached({"U-Net": tasks(1.2, 2.0), "MobileNetV2": tasks(1.9, 2.1)})
    assert [(aim["case"], aim["task"], aim["met"]) for aim in reached] == [
        ("U-Net", "coupling", True),
        ("U-Net", "slimming", True),
        ("MobileNetV2", "coupling", True),
        ("MobileNetV2", "slimming", False),
    ]


def test_the_table_says_where_torch_pruning_fails() -> None:
    failed = {"ours": seconds(0.2), "Torch-Pruning": "ZeroDivisionError: integer division or modulo by zero"}
    console = Console(width=150, record=True, file=io.StringIO())
    console.print(
        coupling.table({"ShuffleNetV2": {"coupling": failed, "verified": {"ours": seconds(0.3)}, "slimming": failed}})
    )
    (row,) = [line.split() for line in console.export_text().splitlines() if "ShuffleNetV2" in line]
    assert row == ["ShuffleNetV2", "200", "fails", "-", "300", "-", "200", "fails", "-"]


def test_every_task_runs_on_a_tiny_network_and_every_second_channel_is_zero() -> None:
    case = coupling.Case(
        lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2)),
        lambda: torch.ones(1, 1, 4, 4),
    )
    found = coupling.measured(case, rounds=1)
    assert {(task, who) for task, values in found.items() for who in values} == {
        *((task, who) for task in ("coupling", "slimming") for who in ("ours", "Torch-Pruning", "ratio")),
        ("verified", "ours"),
        ("verified", "ratio"),
    }
    network = coupling.without_half(case.build(), case.example())
    assert network[0].weight.flatten(1).any(dim=1).tolist() == [True, False, True, False]
    assert len(coupled_groups(network, case.example()).groups) == 1
