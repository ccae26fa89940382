"""Logged metrics, and the step that they are logged at."""

from __future__ import annotations

from pathlib import Path

import pytest
from lightning.pytorch.loggers import CSVLogger

from lightning_dynprune import DynamicPruning
from tests.callback.runs import loader, net
from tests.training import trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec"),
    pytest.mark.filterwarnings("ignore:.*is down to min_kept"),
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval"),
]


def test_values_are_logged_beside_their_target_and_validation_beside_its_sparsity(tmp_path):
    logger = CSVLogger(tmp_path)
    pruning = DynamicPruning(sparsity=0.8, schedule={"name": "linear", "begin": 8, "end": 24, "every": 8})
    run = trainer([pruning], tmp_path, logger=logger, log_every_n_steps=1)
    run.fit(net(), loader(), loader())
    rows = [
        dict(zip(lines[0].split(","), line.split(","), strict=True))
        for lines in [(Path(logger.log_dir) / "metrics.csv").read_text().splitlines()]
        for line in lines[1:]
    ]
    steps = {int(r["step"]): r for r in rows if r["dynprune/sparsity"]}
    assert float(steps[6]["dynprune/sparsity"]) == 0.0
    for step, expected in [(7, 0.0), (15, 0.4), (16, 0.4), (23, 0.8), (31, 0.8)]:
        assert float(steps[step]["dynprune/sparsity"]) == pytest.approx(expected)
        assert float(steps[step]["dynprune/target_sparsity"]) == pytest.approx(expected)
    assert float(steps[15]["dynprune/churn"]) == pytest.approx(0.4)
    assert float(steps[23]["dynprune/compression"]) == pytest.approx(1045 / 245)
    layers = [float(steps[23][f"dynprune/layer/net.{i}.weight"]) for i in (0, 3)]
    assert (layers[0] * 800 + layers[1] * 200) / 1000 == pytest.approx(0.8)
    validated = [r for r in rows if r["val_acc"]]
    assert [float(r["dynprune/val_sparsity"]) for r in validated] == pytest.approx([0.0, 0.4, 0.8, 0.8])
    assert "dynprune/sparsity" in run.progress_bar_metrics
    assert "dynprune/target_sparsity" in run.progress_bar_metrics
