"""Steps that are counted: of one optimizer or several, with accumulation, and at the end of epochs."""

from __future__ import annotations

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from lightning_dynprune import DynamicPruning
from tests.callback.runs import Gan, Half, Unsized, loader, net, zeros
from tests.training import trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec"),
    pytest.mark.filterwarnings("ignore:.*is down to min_kept"),
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval"),
]


def test_the_clock_counts_optimizer_steps_not_batches(tmp_path):
    pruning = DynamicPruning(sparsity=0.5)
    trainer([pruning], tmp_path, accumulate_grad_batches=4).fit(net(), loader())
    assert pruning.pruner.clock.step == 8
    assert pruning.pruner.schedule.span.end == 6
    assert pruning.pruner.clock.epoch == 4


class Watch(L.Callback):
    """Notes the sparsity at validation and at the end of every batch."""

    def __init__(self, pruning: DynamicPruning) -> None:
        self.pruning, self.validated, self.batches = pruning, [], []

    def on_validation_epoch_end(self, trainer, pl_module):
        if not trainer.sanity_checking:
            self.validated.append(self.pruning.sparsity)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.batches.append(self.pruning.sparsity)


def test_updates_on_epoch_events_come_after_the_last_batch_and_before_validation(tmp_path):
    pruning = DynamicPruning(
        schedule={"name": "linear", "final": 0.8, "begin": "1 epoch", "end": "3 epochs", "every": "1 epoch"}
    )
    watch = Watch(pruning)
    trainer([pruning, watch], tmp_path).fit(net(), loader(), loader())
    assert watch.validated == pytest.approx([0.0, 0.4, 0.8, 0.8])
    assert watch.batches == pytest.approx([0.0] * 15 + [0.4] * 8 + [0.8] * 9)


def test_updates_on_batch_events_come_every_so_many_steps(tmp_path):
    pruning = DynamicPruning(
        schedule={"name": "linear", "final": 0.8, "begin": "4 steps", "end": "20 steps", "every": "8 steps"}
    )
    watch = Watch(pruning)
    trainer([pruning, watch], tmp_path).fit(net(), loader())
    assert watch.batches == pytest.approx([0.0] * 11 + [0.4] * 8 + [0.8] * 13)


@pytest.mark.parametrize("strategy", ["magnitude", "taylor"])
def test_several_optimizers_with_manual_optimization_tick_once_a_batch(strategy, tmp_path):
    model, pruning = Gan(), DynamicPruning(sparsity=0.75, strategy=strategy)
    trainer([pruning], tmp_path).fit(model, loader())
    assert pruning.pruner.clock.step == 32
    assert zeros(model) == 600


@pytest.mark.parametrize("automatic", [True, False])
def test_a_strategy_observes_each_step_once_before_the_weights_move(automatic, tmp_path):
    class One(L.LightningModule):
        automatic_optimization = automatic

        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(2, 1, bias=False)
            self.fc.weight.data = torch.tensor([[2.0, -3.0]])

        def training_step(self, batch, batch_idx):
            loss = self.fc(torch.tensor([[1.0, 4.0]])).sum()
            if automatic:
                return loss
            self.optimizers().zero_grad()
            self.manual_backward(loss)
            return self.optimizers().step()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=1.0)

    pruning = DynamicPruning(
        sparsity=0.5, strategy={"name": "taylor", "decay": 0.5}, schedule={"name": "one_shot", "begin": 2}
    )
    trainer([pruning], tmp_path, max_epochs=1, limit_train_batches=2).fit(One(), loader())
    # Gradients are 1 and 4; the weights are 2 and -3, then 1 and -7: averages of squares with decay a half.
    first, second = [0.5 * 2.0**2, 0.5 * 12.0**2], [1.0**2, 28.0**2]
    expected = [0.5 * a + 0.5 * b for a, b in zip(first, second, strict=True)]
    assert pruning.pruner.targets[0].state["sensitivity"].tolist() == [expected]


@pytest.mark.parametrize("automatic", [True, False])
def test_a_strategy_observes_what_gradient_accumulation_adds_up(automatic, tmp_path):
    class Two(L.LightningModule):
        automatic_optimization = automatic

        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(2, 1, bias=False)
            self.fc.weight.data = torch.tensor([[2.0, -3.0]])

        def training_step(self, batch, batch_idx):
            loss = self.fc(torch.tensor([[1.0, 4.0], [5.0, 8.0]][batch_idx])).sum()
            if automatic:
                return loss
            self.manual_backward(loss / 2)
            return self.optimizers().step() if batch_idx else None

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=1.0)

    pruning = DynamicPruning(
        sparsity=0.5, strategy={"name": "taylor", "decay": 0.0}, schedule={"name": "one_shot", "begin": 1}
    )
    accumulated = {"accumulate_grad_batches": 2} if automatic else {}
    trainer([pruning], tmp_path, max_epochs=1, limit_train_batches=2, **accumulated).fit(Two(), loader())
    # Gradients of 1 and 5, and of 4 and 8: their means are 3 and 6.
    assert pruning.pruner.targets[0].state["sensitivity"].tolist() == [[(2.0 * 3) ** 2, (3.0 * 6) ** 2]]
    assert pruning.pruner.clock.step == 1


@pytest.mark.parametrize("strategy", ["taylor", "movement"])
def test_an_update_before_an_optimizer_has_had_its_turn_is_refused_by_name(strategy, tmp_path):
    at_once = {"name": "one_shot", "begin": 0}
    with pytest.raises(RuntimeError, match=r"there was none yet of b\.weight; update after a step of the optimizer"):
        trainer([DynamicPruning(sparsity=0.75, strategy=strategy, schedule=at_once)], tmp_path).fit(Gan(), loader())


@pytest.mark.parametrize(("sized", "limit"), [(True, 1.0), (True, 0.5), (True, 3), (False, 1.0), (False, 3)])
@pytest.mark.parametrize("check", [1.0, 2])
def test_an_epoch_ends_once_however_long_it_is(limit, sized, check, tmp_path):
    data = loader() if sized else DataLoader(Unsized(), batch_size=None)
    pruning = DynamicPruning(
        schedule={"name": "linear", "final": 0.8, "begin": "1 epoch", "end": "3 epochs", "every": "1 epoch"}
    )
    trainer([pruning], tmp_path, limit_train_batches=limit, val_check_interval=check, max_epochs=4).fit(
        net(), data, loader()
    )
    assert pruning.pruner.clock.epoch == 4
    assert pruning.sparsity == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"strategy": "magnitude", "targets": "net.3.weight"},
            r"no optimizer of this Trainer holds a target \(net.3.weight",
        ),
        ({"targets": "net.3.weight"}, "strategy=Taylor watches every step, and no optimizer trains net.3.weight;"),
        # What is never seen to matter would be the first to go.
        ({}, "no optimizer trains net.3.weight; exclude what is not trained, or give strategy='magnitude', which"),
        ({"strategy": "movement"}, "strategy=Movement watches every step, and no optimizer trains net.3.weight"),
    ],
)
def test_targets_that_nothing_trains_are_refused(settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        trainer([DynamicPruning(sparsity=0.5, **settings)], tmp_path).fit(Half(), loader())
