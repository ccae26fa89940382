"""A layer, parameter or optimizer that is replaced during a fit ends it at the next batch, in words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning as L
import pytest
import torch
from torch import nn

from lightning_dynprune import DynamicPruning
from tests.callback.runs import Gan, loader, net
from tests.training import trainer

AT = 5
EACH = {"name": "constant", "begin": 2, "end": 8, "every": 2}


class Changes(L.Callback):
    """Makes a change when batch number five begins, and counts the batches that end."""

    def __init__(self, change: Callable[[L.Trainer, Any], None]) -> None:
        self.change, self.ended = change, 0

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == AT:
            self.change(trainer, pl_module)

    def on_train_batch_end(self, *args: Any) -> None:
        self.ended += 1


def replace_layer(trainer: L.Trainer, module: Any) -> None:
    module.net[0] = nn.Linear(20, 40)


def replace_layer_and_optimizer(trainer: L.Trainer, module: Any) -> None:
    replace_layer(trainer, module)
    trainer.optimizers = [module.configure_optimizers()]


def replace_optimizer(trainer: L.Trainer, module: Any) -> None:
    trainer.optimizers = [torch.optim.SGD(module.parameters(), lr=0.1)]


def train_the_head_only(trainer: L.Trainer, module: Any) -> None:
    trainer.optimizers = [torch.optim.SGD([module.net[3].bias], lr=0.1)]


def convert(trainer: L.Trainer, module: Any) -> None:
    module.net.double()
    module.net[0].register_forward_pre_hook(lambda layer, inputs: inputs[0].double())


CHANGES = {
    replace_layer: "layer net.0 was replaced",
    replace_layer_and_optimizer: "layer net.0 was replaced|Adam, which trains targets, was taken out",
    replace_optimizer: "Adam, which trains targets, was taken out of Trainer.optimizers|SGD has stepped net.0.weight",
    train_the_head_only: "Adam, which trains targets, was taken out of Trainer.optimizers",
    convert: "net.0.weight has changed from torch.float32 to torch.float64",
}


@pytest.mark.parametrize("strategy", ["magnitude", "straight_through"])
@pytest.mark.parametrize(("change", "words"), CHANGES.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_a_replacement_ends_the_fit_at_that_batch(change, words, strategy, tmp_path):
    ours, changes = DynamicPruning(0.9, strategy=strategy, schedule=EACH), Changes(change)
    run = trainer([ours, changes], tmp_path, max_epochs=1)
    optimizer = torch.optim.SGD if strategy == "magnitude" and change is convert else torch.optim.Adam
    module = net()
    module.configure_optimizers = lambda: optimizer(module.parameters(), lr=1e-2)
    with pytest.raises(RuntimeError, match=words) as caught:
        run.fit(module, loader())
    assert changes.ended == AT
    assert "between two fits" in str(caught.value) or "configure_optimizers" in str(caught.value)


def test_another_fit_prunes_what_was_replaced_between_the_two(tmp_path):
    ours, module = DynamicPruning(0.9, strategy="magnitude", schedule=EACH), net()
    trainer([ours], tmp_path, max_epochs=1).fit(module, loader())
    replace_layer(None, module)
    trainer([ours], tmp_path, max_epochs=1).fit(module, loader())
    zeros = sum(int((module.net[i].weight == 0).sum()) for i in (0, 3))
    assert ours.sparsity == zeros / 1000 == 0.9


def test_another_fit_keeps_the_masks_under_another_optimizer(tmp_path):
    ours, module = DynamicPruning(0.9, strategy="magnitude", schedule=EACH), net()
    trainer([ours], tmp_path, max_epochs=1).fit(module, loader())
    masks = {name: mask.clone() for name, mask in ours.masks.items()}
    module.configure_optimizers = lambda: torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    trainer([ours], tmp_path, max_epochs=1).fit(module, loader())
    assert all(torch.equal(mask, ours.masks[name]) for name, mask in masks.items())


class OwnOptimizer(Gan):
    """Replaces one of its two optimizers by one that the Trainer does not know."""

    own: torch.optim.Optimizer | None = None

    def training_step(self, batch, batch_idx):
        if batch_idx == AT:
            self.own = torch.optim.SGD(self.a.parameters(), lr=0.1)
        a, b = self.optimizers()
        for optimizer, layer in ((self.own or a, self.a), (b, self.b)):
            optimizer.zero_grad()
            self.manual_backward(layer(batch[0]).square().mean())
            optimizer.step()


def test_an_optimizer_that_the_trainer_does_not_know_is_noticed_though_it_makes_no_tick(tmp_path):
    ours, changes = DynamicPruning(0.9, strategy="magnitude", schedule=EACH), Changes(lambda *args: None)
    with pytest.raises(RuntimeError, match=r"SGD has stepped a\.weight and is an optimizer that the pruner was not"):
        trainer([ours, changes], tmp_path, max_epochs=1).fit(OwnOptimizer(), loader())
    assert changes.ended == AT
