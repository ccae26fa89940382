"""What the tables say, on figures written out here."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from lightning_dynprune.report import SweepRow, progress_line, run_table, sweep_table, write_summary

RESULTS: dict[str, Any] = {
    "accuracy": 0.91,
    "dense_accuracy": 0.93,
    "val_accuracy": 0.92,
    "dense_val_accuracy": 0.94,
    "sparsity": 0.75,
    "target_sparsity": 0.8,
    "nonzero": 300,
    "parameters": 1200,
    "compression": 4.0,
    "layers": {"fc.weight": 0.75},
    "connections": {"fc.weight": 1000},
    "seconds": {"data": 0.1, "dense": 3.0, "pruned": 130.0, "test": 0.2},
    "bytes": {"dense": 4800, "compact": 1325},
    "seed": 3,
}
PER_INPUT: dict[str, Any] = {
    "method": "early_exit",
    "paths": ["conv1", "end"],
    "figures": {
        "accuracy": 0.905,
        "dense_accuracy": 0.91,
        "accuracy_easy": 0.99,
        "accuracy_hard": 0.82,
        "compute_mean": 0.4,
        "compute_p5": 0.2,
        "compute_p95": 1.01,
        "rank_correlation": 0.5,
        "share/conv1": 0.75,
        "accuracy/conv1": 0.96,
        "share/end": 0.25,
        "accuracy/end": None,
        "density/fc": 0.5,
    },
}
FAILED = SweepRow("1", ["sparsity=[2]"], error="ValueError: sparsity=2 is [not] accepted")


def printed(table: Any, width: int = 100) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def cells(text: str, label: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.strip().startswith(label)]
    return re.split(r"\s{2,}", line.strip())


@pytest.mark.parametrize(
    "row",
    [
        ["test accuracy", "93.00 %", "91.00 %"],
        ["validation accuracy", "94.00 %", "92.00 %"],
        ["sparsity asked for", "0.00 %", "80.00 %"],
        ["sparsity reached", "0.00 %", "75.00 %"],
        ["non-zero parameters", "1,200", "300"],
        ["compression", "1.0x", "4.0x"],
        ["weights on disk", "4.8 kB", "1.3 kB"],
        ["training", "3.0 s", "2 min 10 s"],
        ["fc.weight", "1,000", "250", "75.00 %"],
    ],
    ids=lambda row: row[0],
)
def test_a_run_shows_dense_beside_pruned_and_each_layer(row):
    found = cells(printed(run_table(RESULTS, Path("/runs/1"))), row[0])
    assert found[1:] == row[1:]


def test_a_run_without_dense_baseline_claims_no_figures_for_it():
    alone = {
        **RESULTS,
        "dense_accuracy": None,
        "dense_val_accuracy": None,
        "seconds": {"data": 0, "pruned": 1, "test": 0},
    }
    table = printed(run_table(alone, Path("/runs/1")))
    assert cells(table, "test accuracy")[1:] == ["-", "91.00 %"]
    assert cells(table, "training")[1:] == ["-", "1.0 s"]


@pytest.mark.parametrize(
    "row",
    [
        ["conv1", "75.00 %", "96.00 %"],
        ["end", "25.00 %", "-"],
        ["all, per input", "100.00 %", "90.50 %"],
        ["all, by the whole network", "100.00 %", "91.00 %"],
        ["hard half", "50.00 %", "82.00 %"],
        ["multiply-adds: mean", "40.00 %"],
        ["multiply-adds: 5th, 95th percentile", "20.00 %", "101.00 %"],
        ["rank correlation of loss and compute", "0.50"],
        ["density of fc", "50.00 %"],
    ],
    ids=lambda row: row[0],
)
def test_a_run_that_prunes_per_input_shows_each_way_and_what_inputs_cost(row):
    table = printed(run_table({**RESULTS, "adaptive": PER_INPUT}, Path("/runs/1")))
    assert cells(table, row[0]) == row


def test_a_sweep_over_budgets_shows_accuracy_and_compute_per_input():
    adaptive = {**RESULTS, "adaptive": PER_INPUT}
    rows = [SweepRow("0", ["adaptive.budget=0.4"], adaptive), SweepRow("1", ["adaptive=none"], RESULTS)]
    text = printed(sweep_table(rows, Path("/sweep")), width=80)
    assert cells(text, "job")[2:] == ["pruned", "dense", "accuracy", "adapted", "compute"]
    assert cells(text, "0")[2:] == ["75.00 %", "93.00 %", "91.00 %", "90.50 %", "40.00 %"]
    assert cells(text, "1")[2:] == ["75.00 %", "93.00 %", "91.00 %", "-", "-"]


def test_the_summary_of_a_sweep_has_the_figures_per_input(tmp_path):
    rows = [SweepRow("0", [], {**RESULTS, "adaptive": PER_INPUT}), SweepRow("1", [], RESULTS)]
    write_summary(rows, tmp_path / "summary.csv")
    first, second = csv.DictReader((tmp_path / "summary.csv").open())
    assert (first["per_input_accuracy"], first["per_input_compute_mean"]) == ("0.905", "0.4")
    assert (second["per_input_accuracy"], second["per_input_compute_mean"]) == ("", "")


def test_the_progress_of_a_sweep_is_one_line_with_the_time_left():
    rows = [SweepRow("0", ["a=1"], RESULTS), SweepRow("1", ["a=2"]), SweepRow("2", ["a=3"], started=False)]
    line = printed(progress_line(rows[0], rows, 1, 90.0), width=80).strip()
    assert line == "1 of 3 jobs done, about 3 min 00 s left; 0: 75.00 % pruned, 92.00 % right"
    assert printed(progress_line(None, rows, 1, None)).strip() == "1 of 3 jobs done"


def test_a_stopped_sweep_says_of_each_job_whether_it_was_started():
    rows = [SweepRow("0", ["a=1"], RESULTS), SweepRow("1", ["a=2"]), SweepRow("2", ["a=3"], started=False)]
    text = printed(sweep_table(rows, Path("/sweep")))
    assert text.index("a=2") < text.index("not finished") < text.index("a=3") < text.index("not started")


def test_a_sweep_names_what_sets_its_jobs_apart_and_why_one_failed():
    rows = [
        SweepRow("0", ["seed=3", "sparsity=0.8"], RESULTS),
        SweepRow("1", ["seed=3", *FAILED.overrides], error=FAILED.error),
    ]
    text = printed(sweep_table(rows, Path("/sweep")))
    assert text.splitlines()[0].strip() == "Sweep seed=3"
    assert cells(text, "0") == ["0", "sparsity=0.8", "80.00 %", "75.00 %", "91.00 %", "93.00 %", "4.0x"]
    assert "sparsity=[2]" in text
    assert "failed: ValueError: sparsity=2 is [not] accepted" in re.sub(r"\s+", " ", text)


def test_all_columns_of_a_sweep_fit_a_terminal_of_80_columns():
    text = printed(
        sweep_table([SweepRow("0", ["sparsity=0.8", "strategy=magnitude"], RESULTS), FAILED], Path("/s")), 80
    )
    assert "4.0x" in text
    assert "factor" in text
    assert "…" not in text


def test_a_summary_has_a_line_a_job_with_empty_figures_for_a_failed_one(tmp_path):
    write_summary([SweepRow("0", ["sparsity=0.8"], RESULTS), FAILED], tmp_path / "summary.csv")
    with (tmp_path / "summary.csv").open() as file:
        first, second = csv.DictReader(file)
    assert first["accuracy"] == "0.91"
    assert first["target_sparsity"] == "0.8"
    assert first["error"] == ""
    assert (first["sparsity"], first["reached_sparsity"]) == ("0.8", "0.75")
    assert (second["sparsity"], second["reached_sparsity"]) == ("[2]", "")
    assert second["accuracy"] == ""
    assert second["error"] == "ValueError: sparsity=2 is [not] accepted"
    assert [path.name for path in tmp_path.iterdir()] == ["summary.csv"]
