"""Every optimizer of torch.optim, and what changes their learning rate."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_dynprune import DynamicPruning
from tests.compatibility.runs import SCHEDULE, STRATEGIES, Module, fit, holds

# Name -> the settings it is tried with. A class that a later torch brings is missing here, and a test says so.
OPTIMIZERS: dict[str, list[dict[str, Any]]] = {
    "ASGD": [{"t0": 5, "weight_decay": 1e-2}, {"foreach": True}],
    "Adadelta": [{"lr": 1.0, "weight_decay": 1e-2}, {"foreach": True}],
    "Adafactor": [{"weight_decay": 1e-2}, {"foreach": True}],
    "Adagrad": [{"weight_decay": 1e-2, "initial_accumulator_value": 0.1}, {"foreach": True}, {"fused": True}],
    "Adam": [{"weight_decay": 1e-2, "amsgrad": True}, {"foreach": True}, {"fused": True}],
    "AdamW": [{"weight_decay": 1e-1}, {"foreach": True}, {"fused": True}],
    "Adamax": [{"weight_decay": 1e-2}, {"foreach": True}],
    "LBFGS": [{"lr": 0.1, "max_iter": 3}, {"lr": 0.5, "max_iter": 3, "line_search_fn": "strong_wolfe"}],
    "Muon": [{"weight_decay": 1e-1}],
    "NAdam": [{"weight_decay": 1e-2}, {"foreach": True}],
    "RAdam": [{"weight_decay": 1e-2}, {"foreach": True}],
    "RMSprop": [{"momentum": 0.9, "centered": True, "weight_decay": 1e-2}, {"foreach": True}],
    "Rprop": [{}, {"foreach": True}],
    "SGD": [
        {"momentum": 0.9, "nesterov": True, "weight_decay": 1e-2},
        {"momentum": 0.9, "foreach": True},
        {"momentum": 0.9, "fused": True},
    ],
    "SparseAdam": [{}],
}
HERE = {
    name
    for name, kind in inspect.getmembers(torch.optim, inspect.isclass)
    if issubclass(kind, torch.optim.Optimizer) and kind is not torch.optim.Optimizer
}
BY_ITSELF = ("LBFGS", "SparseAdam")
CASES = [
    pytest.param(strategy, name, settings, id="-".join([strategy, name, *settings]))
    for name in sorted(HERE.intersection(OPTIMIZERS).difference(BY_ITSELF))
    for settings in OPTIMIZERS[name]
    # An implementation is the same to both strategies; the optimizer itself is not.
    for strategy in (STRATEGIES if "foreach" not in settings else STRATEGIES[1:])
]


def trained_by(name: str, settings: dict[str, Any]) -> Callable[[], Module]:
    """Return what makes the module with an optimizer by name."""

    class Trained(Module):
        def configure_optimizers(self) -> Any:
            parameters = [p for p in self.parameters() if name != "Muon" or p.dim() == 2]
            return getattr(torch.optim, name)(parameters, **{"lr": 1e-2, **settings})

    return Trained


# Some are in torch.optim only since a later torch than the lowest that is supported.
def test_every_optimizer_of_torch_is_in_the_table():
    assert set(OPTIMIZERS) >= HERE


@pytest.mark.parametrize(("strategy", "name", "settings"), CASES)
def test_an_optimizer_revives_nothing_and_resumes_to_the_bit(strategy, name, settings, tmp_path):
    holds(tmp_path, strategy, trained_by(name, settings))


@pytest.mark.parametrize("settings", OPTIMIZERS["LBFGS"])
@pytest.mark.parametrize("strategy", ["taylor", "magnitude", "rigl"])
def test_lbfgs_revives_nothing_in_any_of_its_evaluations_and_resumes_to_the_bit(strategy, settings, tmp_path):
    class Evaluated(trained_by("LBFGS", settings)):
        evaluations = 0

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            (pruning,) = [c for c in self.trainer.callbacks if isinstance(c, DynamicPruning)]
            for target, mask in zip(pruning.pruner.targets, pruning.pruner.masks.tensors, strict=True):
                assert not target.parameter.detach().view(torch.int32)[~mask].any()
            Evaluated.evaluations += 1
            return super().training_step(batch, batch_idx)

    module, _, run = holds(tmp_path, strategy, Evaluated)
    assert Evaluated.evaluations > 2 * run.global_step
    assert float(run.callback_metrics["loss"]) < 1.0
    assert all(parameter.abs().max() < 10 for parameter in module.parameters())


def test_lbfgs_is_refused_for_latent_weights_before_the_first_batch(tmp_path):
    make = trained_by("LBFGS", {})
    with pytest.raises(ValueError, match="keeps latent weights, which LBFGS cannot train"):
        fit(tmp_path, "straight_through", make)


class Embedding(Module):
    """Rows of a table that a batch names; their gradient is sparse."""

    def __init__(self) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            super().__init__(nn.Embedding(8, 4, sparse=True))

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        return nn.functional.cross_entropy(self.net(x.argmax(1)), y)

    def configure_optimizers(self) -> Any:
        return torch.optim.SparseAdam(self.parameters(), lr=1e-2)


SPARSE = {"targets": "net.weight", "schedule": SCHEDULE}


@pytest.mark.parametrize("strategy", ["magnitude", "straight_through"])
def test_sparse_adam_revives_nothing_and_resumes_to_the_bit(strategy, tmp_path):
    holds(tmp_path, strategy, Embedding, settings=SPARSE)


def test_sparse_gradients_are_refused_by_a_strategy_that_reads_every_connection(tmp_path):
    with pytest.raises(ValueError, match=r"layout .*sparse_coo, and strategy=Taylor reads every"):
        fit(tmp_path, "taylor", Embedding, settings=SPARSE)


SCHEDULERS: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "each step": lambda o: {"scheduler": torch.optim.lr_scheduler.StepLR(o, 2, 0.8), "interval": "step"},
    "each epoch": lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.5),
    "one cycle": lambda o: {
        # Its momentum goes round too.
        "scheduler": torch.optim.lr_scheduler.OneCycleLR(o, 0.05, total_steps=24),
        "interval": "step",
    },
    "on a plateau": lambda o: {
        "scheduler": torch.optim.lr_scheduler.ReduceLROnPlateau(o, factor=0.1, patience=0, threshold=1.0),
        # Each step, for Lightning leaves out the one at the end of an epoch that it resumed in.
        "monitor": "loss",
        "interval": "step",
    },
}


@pytest.mark.parametrize("schedule", SCHEDULERS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_learning_rate_that_changes_changes_nothing_else(strategy, schedule, tmp_path):
    class Scheduled(Module):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.Adam(self.parameters(), lr=1e-2, weight_decay=1e-2)
            return [optimizer], [SCHEDULERS[schedule](optimizer)]

    _, _, run = holds(tmp_path, strategy, Scheduled)
    assert run.optimizers[0].param_groups[0]["lr"] < 5e-3
