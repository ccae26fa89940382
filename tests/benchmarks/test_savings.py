"""The savings' table and its cases, without measuring."""

from __future__ import annotations

import io

import pytest
import savings
import torch
from rich.console import Console

from lightning_dynprune.deploy.measurement.report import DeployReport, Row
from lightning_dynprune.deploy.timing import Latency, Ratio


def row(name: str, ratio: float, **figures) -> Row:
    return Row(name, {1: Latency(0.001, 0.001, 0.001, 9)}, {1: Ratio(ratio, ratio, ratio, 9)}, **figures)


def report(ours: float, int8: float) -> DeployReport:
    files = {"plain": 1000, "compact": 300, "compact zstd": 250}
    rows = [
        row("dense", 1.0, files=files | {"compact zstd": 900}, macs=400, memory={1: 2000}),
        row("pruned", 1.0, files=files, macs=400, memory={1: 2000}),
        Row("slim", not_measured={"everything": "nothing to remove"}),
        row("pruned, accelerated", ours, macs=100, memory={1: 500}),
        row("dense, onnx", 1.5),
        row("dense, onnx int8", int8),
        row("dense, torch int8", 6.0),
    ]
    return DeployReport(rows, (1,), "cpu", 1, "cpu")


CASE = "Linear 1024->4096, block 32x1, 80%"


def test_an_aim_is_compared_with_dense_and_with_a_rival_in_the_same_report() -> None:
    reached = savings.reached({CASE: report(ours=9.0, int8=12.0)})
    assert [(aim["against"], aim["reached"], aim["met"]) for aim in reached] == [
        ("dense", 9.0, True),
        ("dense, onnx int8", 0.75, False),
        ("dense, torch int8", 1.5, True),
    ]


def test_the_table_has_losses_and_what_was_not_measured() -> None:
    console = Console(width=150, record=True, file=io.StringIO())
    console.print(savings.table({CASE: report(ours=0.8, int8=12.0)}))
    text = console.export_text()
    assert "pruned   " in text  # as it is, for the kernels lose
    assert "12.00" in text
    assert "not measured" in text  # no slim model in ONNX
    assert "25 %" in text  # of the file


@pytest.mark.parametrize(
    ("case", "share"),
    [
        ("ConvNet, half the channels", 0.7),
        ("Linear 1024->4096, block 32x1, 70%", 0.7),
        ("Linear 1024->4096, element, 90%", 0.9),
        ("LeNet-300-100, element, 98%", 0.98),
    ],
)
def test_a_case_has_the_zeros_it_says(case: str, share: float) -> None:
    torch.manual_seed(0)
    model = savings.CASES[case].model().eval()
    pruned = savings.CASES[case].pruned(model)
    weights = [parameter for parameter in pruned.parameters() if parameter.dim() > 1]
    zeros = sum(int((weight == 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)
    assert zeros == pytest.approx(share, abs=0.02)


def test_every_aim_names_a_case_and_a_batch_of_it() -> None:
    for name, batch, base, aim in savings.AIMS:
        assert batch in savings.CASES[name].batches
        assert base in ("dense", *savings.RIVALS)
        assert aim >= 1
