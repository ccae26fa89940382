"""The figures exist, are pictures, and show what they were given."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from lightning_dynprune.report import SweepRow, draw_compute_per_input, draw_pareto, draw_run
from tests.report.test_tables import PER_INPUT, RESULTS

HISTORY = {
    "sparsity": [(0, 0.0), (10, 0.5), (20, 0.75)],
    "val_accuracy": [(15, 0.8), (30, 0.92)],
    "dense_val_accuracy": [(15, 0.85), (30, 0.94)],
}


@pytest.fixture
def drawn(monkeypatch) -> list[Figure]:
    """Return the figures that are saved."""
    figures: list[Figure] = []
    save = Figure.savefig

    def note(self, *args, **kwargs):
        figures.append(self)
        return save(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", note)
    return figures


def points(line) -> list[tuple[float, float]]:
    return list(zip(*(np.asarray(axis).tolist() for axis in line.get_data()), strict=True))


def test_a_run_shows_accuracy_and_sparsity_over_steps_beside_the_dense_baseline(drawn, tmp_path):
    draw_run({**RESULTS, "history": HISTORY, "steps": 30}, tmp_path / "run.png")
    above, below = drawn[0].axes
    assert (tmp_path / "run.png").read_bytes()[:4] == b"\x89PNG"
    lines = {line.get_label(): line for line in above.lines}
    assert points(lines["pruned, validation"]) == HISTORY["val_accuracy"]
    assert points(lines["dense, validation"]) == HISTORY["dense_val_accuracy"]
    (dashed,) = [line for line in above.lines if line.get_linestyle() == "--"]
    assert set(dashed.get_ydata()) == {0.94}
    assert points(below.lines[0]) == [*HISTORY["sparsity"], (30, 0.75)]
    assert set(below.lines[1].get_ydata()) == {0.8}
    assert below.get_xlabel() == "optimizer steps"


def test_a_run_without_dense_baseline_or_validation_is_drawn_too(drawn, tmp_path):
    bare = {**RESULTS, "dense_accuracy": None, "dense_val_accuracy": None, "steps": 30}
    history = {"sparsity": HISTORY["sparsity"], "val_accuracy": [], "dense_val_accuracy": []}
    draw_run({**bare, "history": history}, tmp_path / "run.png")
    assert not drawn[0].axes[0].lines


def test_a_sweep_shows_a_curve_a_strategy_in_order_of_sparsity_and_dense_as_a_line(drawn, tmp_path):
    def row(job: str, strategy: str, sparsity: float, accuracy: float) -> SweepRow:
        found = {**RESULTS, "sparsity": sparsity, "accuracy": accuracy}
        return SweepRow(job, [f"sparsity={sparsity}", f"strategy={strategy}"], found)

    rows = [row("0", "taylor", 0.9, 0.7), row("1", "taylor", 0.5, 0.8), row("2", "random", 0.5, 0.6)]
    draw_pareto([*rows, SweepRow("3", ["sparsity=2"], error="no")], tmp_path / "pareto.png")
    (axes,) = drawn[0].axes
    curves = {line.get_label(): line for line in axes.lines}
    assert points(curves["strategy=taylor"]) == [(0.5, 0.8), (0.9, 0.7)]
    assert points(curves["strategy=random"]) == [(0.5, 0.6)]
    assert set(curves["dense: 93.00%"].get_ydata()) == {0.93}
    assert len(curves) == 3


def test_a_sweep_of_which_every_job_failed_says_so(drawn, tmp_path):
    draw_pareto([SweepRow("0", ["sparsity=2"], error="no")], tmp_path / "pareto.png")
    assert [text.get_text() for text in drawn[0].axes[0].texts] == ["no job of this sweep has results"]


def test_a_sweep_over_budgets_shows_accuracy_over_compute(drawn, tmp_path):
    def row(job: str, budget: float, accuracy: float) -> SweepRow:
        figures = {**PER_INPUT["figures"], "compute_mean": budget, "accuracy": accuracy}
        return SweepRow(job, [f"adaptive.budget={budget}"], {**RESULTS, "adaptive": {**PER_INPUT, "figures": figures}})

    draw_pareto([row("0", 0.7, 0.92), row("1", 0.3, 0.85)], tmp_path / "pareto.png")
    (axes,) = drawn[0].axes
    assert points(axes.lines[0]) == [(0.3, 0.85), (0.7, 0.92)]
    assert axes.get_xlabel() == "mean share of the multiply-adds"


def test_compute_per_input_is_a_histogram_above_the_cheapest_and_the_dearest_images(drawn, tmp_path):
    compute = torch.tensor([0.2, 0.2, 0.2, 1.0], dtype=torch.float64)
    cheap, dear = torch.zeros(3, 1, 4, 4), torch.rand(3, 3, 4, 4)
    draw_compute_per_input(compute, cheap, dear, tmp_path / "per_input.png")
    axes, *images = drawn[0].axes
    heights = [bar.get_height() for bar in axes.patches if bar.get_height()]
    assert heights == [3, 1]
    assert axes.lines[0].get_xdata()[0] == pytest.approx(0.4)
    shown = [np.asarray(each.images[0].get_array()).shape for each in images if each.images]
    assert shown == [(4, 4)] * 3 + [(4, 4, 3)] * 3
