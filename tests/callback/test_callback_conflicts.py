"""Checks of other callbacks, without a fit; fits that they refuse are in tests/compatibility."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
from lightning.pytorch.callbacks import BackboneFinetuning, ModelCheckpoint, ModelPruning, WeightAveraging
from torch import nn

from lightning_dynprune.callback.callback_conflicts import (
    check_averaging,
    check_finetuning,
    check_model_pruning,
    check_strategy,
)


def run(*callbacks) -> SimpleNamespace:
    return SimpleNamespace(callbacks=list(callbacks), model=None)


def test_finetuning_is_refused_only_if_it_would_unfreeze_a_target():
    check_finetuning(run(BackboneFinetuning()), [])
    check_finetuning(run(ModelCheckpoint()), ["a.weight"])
    with pytest.raises(ValueError, match=re.escape("a.weight and 2 more: frozen now, and BackboneFinetuning")):
        check_finetuning(run(BackboneFinetuning()), ["a.weight", "b.weight", "c.weight"])


def test_averaging_is_refused_only_beside_slimming():
    averaging = WeightAveraging()
    averaging._average_model = nn.Linear(2, 2)
    check_averaging(run(averaging), None)
    check_averaging(run(ModelCheckpoint()), "end")
    with pytest.raises(ValueError, match="slim='end' does not go with WeightAveraging"):
        check_averaging(run(averaging), "end")


def test_model_pruning_is_refused_only_on_the_same_parameter():
    layers, other = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)]), ModelPruning("l1_unstructured")
    other._parameters_to_prune = [(layers[0], "weight")]
    check_model_pruning(run(other), [("1.weight", layers[1].weight)])
    with pytest.raises(ValueError, match=r"0\.weight is pruned by ModelPruning already"):
        check_model_pruning(run(other), [("0.weight", layers[0].weight)])


@pytest.mark.parametrize("name", ["FSDPStrategy", "DeepSpeedStrategy"])
def test_strategies_that_flatten_parameters_are_refused_by_name(name):
    trainer = run()
    trainer.strategy = type(name, (), {})()
    with pytest.raises(ValueError, match=rf"Trainer\(strategy={name}\).*ModelParallelStrategy"):
        check_strategy(trainer)
    trainer.strategy = type("DDPStrategy", (), {})()
    check_strategy(trainer)
