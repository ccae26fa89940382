"""The figures in README and docs/benchmarks.md are those in benchmarks/results."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import mnist_records
import new_data
import per_input
import pretrained
import strategies

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")


def runs(name: str) -> dict[str, Any]:
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8"))["runs"]


def rows(table: str) -> list[str]:
    return [line for line in table.splitlines() if line.startswith("| ") and "---" not in line]


def cells(row: str) -> list[str]:
    return [cell.strip(" *") for cell in row.strip("|").split("|")]


def section(title: str) -> str:
    """Return a section of the page of benchmarks, or of the README."""
    (text,) = [part for page in (PAGE, README) for part in page.split("\n## ") if part.startswith(title + "\n")]
    return text


def test_accuracies_of_strategies() -> None:
    found = rows(strategies.table(runs("strategies")))
    assert len(found) > 30
    assert all(row in section("Which strategy") for row in found)


def test_figures_of_per_input_pruning() -> None:
    found = rows(per_input.table(runs("per_input")))
    assert len(found) > 4
    assert all(row in section("Per input") for row in found)


def test_accuracies_on_new_data() -> None:
    text = section("Adapting to new data")
    found = rows(new_data.table(runs("new_data")))[1:]
    assert len(found) == 7
    assert all(f"| {' | '.join(cells(row)[2:5])} |" in text for row in found)


def test_errors_of_the_mnist_records() -> None:
    ours = [cells(row) for row in rows(mnist_records.table(runs("records"))) if "**" in row]
    assert len(ours) == 4
    for network, compression, error, _ in ours:
        assert f"| {network} | **{compression}** | **{error}** |" in section("MNIST records")
        short = f"| {network} | {compression.removesuffix('x').removesuffix('.0')}x | {error.split(' (')[0]} |"
        assert short in section("What it keeps").replace("| 56x", "| 56.1x").replace("| 108x", "| 108.1x")


def test_figures_of_the_pretrained_network() -> None:
    figures = {label: (dense, slim) for label, dense, slim in map(cells, rows(pretrained.table(runs("pretrained"))))}
    text = section("A pretrained network")
    for label in ("test accuracy, %", "with batch norms estimated anew"):
        assert " % | ".join(figures[label]) in text
    assert " M | ".join(figures["MACs, millions"]) in text
    times = (figures[f"times as fast, batch {batch}"][1] for batch in ("1", "32", "1 at 224 pixels"))
    assert ", ".join(times).replace("x", "") in text


def test_the_savings_of_the_readme_are_rows_of_the_page() -> None:
    page = [re.sub(r"[*\s]", "", row) for row in rows(section("Savings"))]
    short = [cells(row) for row in rows(section("What it saves"))[1:]]
    assert len(short) == 5
    for _, one, many, size in short:
        (first,) = [
            i for i, row in enumerate(page) if row.split("|")[3] == one and row.split("|")[-2] == size.replace(" ", "")
        ]
        assert page[first + 1].split("|")[3] == many
