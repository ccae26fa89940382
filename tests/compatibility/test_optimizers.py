"""Every optimizer of torch.optim, and schedules of the learning rate."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.optim import Optimizer, lr_scheduler

from tests.compatibility.runs import SPARSITY, STRATEGIES, Module, fit, holds

# Settings each is run with; what is not here is refused or does not apply, with the reason beside it.
SETTINGS: dict[str, list[dict[str, Any]]] = {
    "Adadelta": [{}, {"foreach": True}],
    "Adafactor": [{}],
    "Adagrad": [{"initial_accumulator_value": 0.1}, {"fused": True}],
    "Adam": [{}, {"foreach": True}, {"fused": True}, {"amsgrad": True, "weight_decay": 1e-2}],
    "AdamW": [{}, {"fused": True}],
    "Adamax": [{}],
    "ASGD": [{"t0": 5}],
    "Muon": [{}],
    "NAdam": [{"foreach": True}],
    "RAdam": [{"foreach": True}],
    "RMSprop": [{"momentum": 0.9, "centered": True}],
    "Rprop": [{}],
    "SGD": [{"momentum": 0.9, "nesterov": True, "weight_decay": 1e-2}, {"momentum": 0.9, "fused": True}],
    "LBFGS": [{"lr": 0.1, "max_iter": 4}],
}
LATENT_REFUSED = {"LBFGS"}
NOT_FOR_DENSE_GRADIENTS = {"SparseAdam"}
CASES = [(name, settings) for name, all_of_it in SETTINGS.items() for settings in all_of_it]


def module(name: str, settings: dict[str, Any]) -> type[Module]:
    class Trained(Module):
        def configure_optimizers(self) -> Optimizer:
            # Muon is for matrices; the rest is left as it was initialised.
            parameters = [p for p in self.parameters() if name != "Muon" or p.dim() == 2]
            return getattr(torch.optim, name)(parameters, **{"lr": 1e-2, **settings})

    return Trained


def test_every_optimizer_of_torch_is_in_the_table():
    known = {
        name
        for name, kind in vars(torch.optim).items()
        if isinstance(kind, type) and issubclass(kind, Optimizer) and kind is not Optimizer
    }
    assert known <= SETTINGS.keys() | NOT_FOR_DENSE_GRADIENTS


@pytest.mark.parametrize(("name", "settings"), CASES, ids=["-".join([n, *map(str, s)]) for n, s in CASES])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_optimizer_prunes_exactly_and_resumes_to_the_bit(strategy, name, settings, tmp_path):
    if not hasattr(torch.optim, name):
        pytest.skip(f"this torch has no {name}")
    if strategy == "straight_through" and name in LATENT_REFUSED:
        with pytest.raises(ValueError, match="keeps latent weights, which LBFGS cannot train"):
            fit(tmp_path, strategy, module(name, settings))
        return
    holds(tmp_path, strategy, module(name, settings))


RATES: dict[str, Any] = {
    "OneCycleLR": lambda o: {"scheduler": lr_scheduler.OneCycleLR(o, 1e-2, total_steps=24), "interval": "step"},
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 4),
    "ReduceLROnPlateau": lambda o: {
        "scheduler": lr_scheduler.ReduceLROnPlateau(o, patience=0, threshold=1.0),
        "monitor": "val_loss",
    },
}


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_schedules_of_the_rate_go_on_beside_the_schedule_of_the_pruning(strategy, rate, tmp_path):
    class Scheduled(Module):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.Adam(self.parameters(), lr=1e-2)
            return {"optimizer": optimizer, "lr_scheduler": RATES[rate](optimizer)}

    # Resumed in mid-epoch, Lightning leaves out that epoch's step of a schedule that watches a metric.
    run_it = fit if rate == "ReduceLROnPlateau" else holds
    _, ours, run = run_it(tmp_path, strategy, Scheduled)
    assert ours.sparsity == pytest.approx(SPARSITY, abs=1e-2)
    assert run.optimizers[0].param_groups[0]["lr"] < 1e-2
