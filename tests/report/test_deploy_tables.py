"""What the tables of a measured model say, on figures written out here."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from lightning_dynprune.deploy.forecast.forecast_result import Cell, Forecast
from lightning_dynprune.deploy.measurement.report import DeployReport, Row
from lightning_dynprune.deploy.timing import Latency, Ratio
from lightning_dynprune.report import deploy_table, preflight_table

REPORT = DeployReport(
    [
        Row(
            "dense",
            {1: Latency(0.002, 0.0019, 0.0025, 9)},
            {1: Ratio(1.0, 1.0, 1.0, 9)},
            {1: 5_000},
            {"plain": 4_000, "compact": 4_100, "compact zstd": 3_900},
            1_000_000,
            1_000,
            990,
            0.925,
        ),
        Row(
            "dense, onnx",
            {1: Latency(0.001, 0.0009, 0.0011, 9)},
            {1: Ratio(2.0, 1.9, 2.1, 9)},
            files={"plain": 5_200},
            parameters=1_000,
            nonzero=990,
            accuracy=0.92,
            not_measured={"memory": "outside", "macs": "outside", "compact files": "no torch"},
        ),
        Row("slim", not_measured={"everything": "nothing to remove"}),
    ],
    (1,),
    "cpu",
    1,
    "cpu",
)


def printed(table: Any, width: int = 80) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def cells(text: str, label: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith(f" {label}  ") or line.startswith(f"{label}  ")]
    return [re.split(r"\s{2,}", line.strip()) for line in lines]


def test_each_form_has_its_figures_and_what_is_missing_says_so_in_eighty_columns() -> None:
    text = printed(deploy_table(REPORT.to_dict(), Path("run/deploy.json")))
    assert "Batch 1, cpu, 1 thread, CPU time" in text
    assert cells(text, "dense") == [
        ["dense", "2.000 (1.900-2.500)", "1.00 (1.00-1.00)", "5.0 kB"],
        ["dense", "4.0 kB", "4.1 kB", "3.9 kB"],
        ["dense", "1,000,000", "1,000", "990", "92.50 %"],
    ]
    assert cells(text, "dense, onnx") == [
        ["dense, onnx", "1.000 (0.900-1.100)", "2.00 (1.90-2.10)", "not measured"],
        ["dense, onnx", "5.2 kB", "not measured", "not measured"],
        ["dense, onnx", "not measured", "1,000", "990", "92.00 %"],
    ]
    assert all(set(row[1:]) == {"not measured"} for row in cells(text, "slim"))
    for reason in (
        "memory, macs not measured: outside (dense, onnx)",
        "compact files not measured: no torch (dense, onnx)",
        "everything not measured: nothing to remove (slim)",
        "run/deploy.json",
    ):
        assert reason in text


@pytest.mark.parametrize(("device", "threads", "clock"), [("H100", 4, "wall")])
def test_the_machine_and_the_clock_are_named(device: str, threads: int, clock: Any) -> None:
    content = DeployReport(REPORT.rows, (1,), device, threads, clock).to_dict()
    assert "Batch 1, H100, 4 threads, wall time" in printed(deploy_table(content))


def test_the_outlook_has_a_row_a_pattern_and_its_verdicts() -> None:
    fast = Ratio(2.5, 2.4, 2.6, 9)
    outlook = Forecast(
        [
            Cell("block 32x1", 0.5, 1, stays_dense=True),
            Cell("block 32x1", 0.9, 1, fast),
            Cell("element", 0.5, 1, note="too late"),
            Cell("element", 0.9, 1, note="too late"),
        ],
        {1: Latency(0.001, 0.001, 0.001, 1)},
        "cpu",
        1,
        "cpu",
        3.0,
    )
    text = printed(preflight_table(outlook.to_dict(), Path("preflight.json")))
    assert cells(text, "block 32x1") == [["block 32x1", "stays dense", "2.50"]]
    assert cells(text, "element") == [["element", "not measured", "not measured"]]
    assert "block 32x1: batch 1: pays from 90 % on (2.50x)" in text
    assert "element: not measured: too late" in text
    assert "measured in 3 s" in text


def test_a_run_that_prunes_per_input_shows_its_speed_and_whether_it_runs_so_in_eighty_columns() -> None:
    def speed(ratio: float, is_adaptive: bool) -> dict[str, Any]:
        return {
            "ratio": {"low": ratio - 0.1, "median": ratio, "high": ratio + 0.1},
            "dense": {"p50": 0.030942, "p95": 0.032092},
            "adaptive": {"p50": 0.010441, "p95": 0.010512},
            "is_adaptive": is_adaptive,
        }

    adaptive = {"accuracy": 0.8969, "speeds": {"1": speed(2.9, True), "32": speed(0.9, False)}}
    text = printed(deploy_table({**REPORT.to_dict(), "adaptive": adaptive}))
    assert "Per input over the fastest dense form, accuracy 89.69 %" in text
    times = ["30.942 -> 10.441", "32.092 -> 10.512"]
    assert ["batch 1", "2.90 (2.80-3.00)", *times, "per input"] in cells(text, "batch 1")
    assert ["batch 32", "0.90 (0.80-1.00)", *times, "dense"] in cells(text, "batch 32")
