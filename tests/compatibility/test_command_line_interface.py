"""The callback in the YAML of a LightningCLI, its parts by name and by class_path."""

from __future__ import annotations

import pytest
from lightning.pytorch.cli import LightningCLI

from lightning_dynprune import AccuracyGuard, DynamicPruning
from lightning_dynprune.patterns import Block
from lightning_dynprune.schedules import Linear
from lightning_dynprune.strategies import Magnitude
from lightning_dynprune.thresholds import TopK
from tests.callback.runs import Data, Net

BY_CLASS = """
strategy: {class_path: lightning_dynprune.strategies.Magnitude, init_args: {norm: 2}}
threshold: {class_path: lightning_dynprune.thresholds.TopK, init_args: {scope: erk}}
schedule: {class_path: lightning_dynprune.schedules.Linear, init_args: {final: 0.8, begin: 0.2, end: 0.7}}
pattern: {class_path: lightning_dynprune.patterns.Block, init_args: {rows: 1, columns: 2}}
guard: {class_path: lightning_dynprune.AccuracyGuard, init_args: {monitor: val_acc, reference: 0.5}}
"""
BY_NAME = """
strategy: {name: magnitude, norm: 2}
threshold: {scope: erk}
schedule: {name: linear, begin: 0.2, end: 0.7}
pattern: {name: block, rows: 1, columns: 2}
guard: {class_path: lightning_dynprune.AccuracyGuard, init_args: {monitor: val_acc, reference: 0.5}}
"""


# Lightning itself still calls jsonargparse by names that this one has deprecated.
@pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*isinstance.treespec")
@pytest.mark.parametrize("parts", [BY_CLASS, BY_NAME], ids=["class_path", "name"])
def test_a_configuration_file_gives_the_parts(parts, tmp_path, monkeypatch):
    settings = "".join(f"        {line}\n" for line in ["sparsity: 0.8", *parts.strip().splitlines()])
    (tmp_path / "config.yaml").write_text(
        "trainer:\n  max_epochs: 2\n  accelerator: cpu\n  logger: false\n  enable_checkpointing: false\n"
        "  enable_progress_bar: false\n  enable_model_summary: false\n"
        f"  default_root_dir: {tmp_path}\n"
        f"  callbacks:\n    - class_path: lightning_dynprune.DynamicPruning\n      init_args:\n{settings}",
        encoding="utf-8",
    )
    monkeypatch.setattr("sys.argv", ["train.py", "fit", "--config", str(tmp_path / "config.yaml")])
    cli = LightningCLI(Net, Data, save_config_callback=None, seed_everything_default=0)
    (pruning,) = (c for c in cli.trainer.callbacks if isinstance(c, DynamicPruning))
    assert pruning.sparsity == 0.8
    assert pruning.pruner.strategy == Magnitude(norm=2)
    assert pruning.pruner.threshold == TopK("erk")
    assert pruning.pruner.schedule == Linear(final=0.8, begin=0.2, end=0.7)
    assert pruning.pruner.pattern == Block(rows=1, columns=2)
    assert isinstance(pruning.guard, AccuracyGuard)
    assert "80.00% of 1,000 connections in 2 targets pruned" in repr(pruning)
    assert "net.0.weight</td><td>800</td>" in pruning._repr_html_()
