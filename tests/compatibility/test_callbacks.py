"""Lightning's callbacks, beside pruning."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    BaseFinetuning,
    BatchSizeFinder,
    DeviceStatsMonitor,
    EarlyStopping,
    GradientAccumulationScheduler,
    LearningRateFinder,
    LearningRateMonitor,
    ModelCheckpoint,
    ModelPruning,
    ModelSummary,
    OnExceptionCheckpoint,
    RichModelSummary,
    RichProgressBar,
    Timer,
    TQDMProgressBar,
)
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.tuner import Tuner
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tests.compatibility.runs import (
    SPARSITY,
    STRATEGIES,
    Module,
    Watch,
    assert_zeros,
    data,
    fit,
    holds,
    pruning,
    saved_sparsity,
)
from tests.conformance.loop import same
from tests.training import trainer

QUIET = {
    "learning rate monitor": lambda: [LearningRateMonitor("step")],
    "timer": lambda: [Timer(duration="00:01:00:00")],
    "model summary": lambda: [ModelSummary(), RichModelSummary()],
    "early stopping": lambda: [EarlyStopping("val_loss", patience=9)],
    "progress bar": lambda: [TQDMProgressBar()],
    "rich progress bar": lambda: [RichProgressBar()],
}


@pytest.mark.parametrize("callbacks", QUIET.values(), ids=QUIET)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_callbacks_that_watch_do_not_disturb(strategy, callbacks, tmp_path):
    shown = any(isinstance(callback, (TQDMProgressBar, RichProgressBar)) for callback in callbacks())
    holds(
        tmp_path,
        strategy,
        callbacks=callbacks,
        logger=CSVLogger(tmp_path),
        log_every_n_steps=1,
        enable_progress_bar=shown,
    )


def test_device_stats_are_watched_without_disturbing(monkeypatch, tmp_path):
    numbers = {"cpu_percent": 1.0}  # what psutil would say
    monkeypatch.setattr(CPUAccelerator, "get_device_stats", lambda self, device: numbers)
    monkeypatch.setattr("lightning.pytorch.callbacks.device_stats_monitor._PSUTIL_AVAILABLE", True)
    for strategy in STRATEGIES:
        holds(tmp_path / strategy, strategy, callbacks=lambda: [DeviceStatsMonitor()], logger=CSVLogger(tmp_path))


SAVERS = {
    "the best three": {"monitor": "val_loss", "save_top_k": 3},
    "the last": {"save_last": True, "save_top_k": 0},
    "every so many steps": {"every_n_train_steps": 5, "save_top_k": -1},
    "each epoch": {"every_n_epochs": 1, "save_top_k": -1, "save_on_train_epoch_end": True},
}


@pytest.mark.parametrize("settings", SAVERS.values(), ids=SAVERS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_checkpoint_has_its_own_zeros_in_place_and_goes_on_to_the_same_end(strategy, settings, tmp_path):
    def saver():
        return [ModelCheckpoint(tmp_path / "saved", "{step}", **settings)]

    module, ours, _ = fit(tmp_path, strategy, callbacks=saver)
    saved = sorted((tmp_path / "saved").glob("*.ckpt"))
    assert saved
    for path in saved:
        assert saved_sparsity(path) <= SPARSITY
    if "save_last" in settings:
        return  # it is of the end
    resumed, theirs, _ = fit(tmp_path / "resumed", strategy, resume=saved[0])
    assert same(resumed.state_dict(), module.state_dict())
    assert same(theirs.state_dict(), ours.state_dict())


class Fails(L.Callback):
    """Stops training by an error, behind a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        if trainer.global_step == self.step:
            raise RuntimeError("power cut")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_checkpoint_of_an_exception_is_gone_on_from_to_the_bit(strategy, tmp_path):
    module, ours, _ = fit(tmp_path, strategy)
    saver = OnExceptionCheckpoint(tmp_path)
    with pytest.raises(RuntimeError, match="power cut"):
        fit(tmp_path, strategy, callbacks=lambda: [Fails(11), saver], enable_checkpointing=True)
    assert saved_sparsity(Path(saver.ckpt_path)) > 0
    resumed, theirs, _ = fit(tmp_path, strategy, resume=saver.ckpt_path)
    assert same(resumed.state_dict(), module.state_dict())
    assert same(theirs.state_dict(), ours.state_dict())


class Stops(Module):
    """Validates ever worse, so that training is stopped early."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", float(self.current_epoch))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_run_that_early_stopping_ends_is_exact_and_says_what_it_did_not_reach(strategy, tmp_path):
    stopping = EarlyStopping("val_loss", patience=1)
    with pytest.warns(UserWarning, match=r"short of the target 0.7500: training ended at step 12, before"):
        _, ours, _ = fit(tmp_path, strategy, Stops, callbacks=lambda: [stopping])
    assert 0 < ours.sparsity < SPARSITY


def accumulating() -> L.Callback:
    return GradientAccumulationScheduler({0: 1, 1: 2, 3: 3})


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_gradients_accumulated_over_more_and_more_batches_are_exact_and_resume_to_the_bit(strategy, tmp_path):
    _, ours, run = holds(
        tmp_path,
        strategy,
        callbacks=lambda: [accumulating()],
        settings={"schedule": {"name": "cubic", "end": 1.0}},
        # In mid-epoch a resumed run accumulates as the first epoch does, without pruning too, until the next begins.
        save_at={"every_n_epochs": 2, "save_on_train_epoch_end": True},
    )
    assert run.global_step == ours.pruner.schedule.span.end == 6 + 3 + 3 + 2


def test_epochs_of_different_lengths_are_no_measure_of_steps(tmp_path):
    with pytest.raises(
        ValueError, match=r"begin='1 epoch' cannot be counted in steps, as the steps of an epoch are not"
    ):
        fit(
            tmp_path,
            "taylor",
            callbacks=lambda: [accumulating()],
            settings={"schedule": {"name": "cubic", "begin": "1 epoch", "every": 1}},
        )


class Tuned(Module):
    """What Lightning's finders look for settings of."""

    def __init__(self) -> None:
        super().__init__()
        self.lr, self.batch_size = 1e-2, 4

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=self.lr, weight_decay=1e-2)


class FindsLater(LearningRateFinder):
    """Looks for a learning rate when an epoch begins, as Lightning's documentation proposes; in its first it can."""

    def on_fit_start(self, *args: Any) -> None:
        return None

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == 0 and self.optimal_lr is None:
            self.lr_find(trainer, pl_module)


# Channels are found by the first batch of training; the batches of a finder are none of those.
CHANNELS = {"pattern": "channel", "targets": "net.*", "sparsity": 0.5}


@pytest.mark.parametrize(
    ("strategy", "finder", "settings"),
    [
        *((strategy, finder, {}) for strategy in STRATEGIES for finder in (LearningRateFinder, FindsLater)),
        ("taylor", FindsLater, CHANNELS),
    ],
)
def test_looking_for_a_learning_rate_leaves_the_pruning_as_it_was(strategy, finder, settings, tmp_path):
    found = finder(num_training_steps=9, update_attr=False, early_stop_threshold=None)
    plain, without, _ = fit(tmp_path, strategy, Tuned, settings=settings)
    module, ours, _ = fit(
        tmp_path, strategy, Tuned, callbacks=lambda: [found], settings=settings, enable_checkpointing=True
    )
    assert len(found.optimal_lr.results["loss"]) == 9
    assert same(module.state_dict(), plain.state_dict())
    assert same(ours.state_dict(), without.state_dict())


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_tuner_leaves_the_pruning_as_it_was_before_the_first_fit_and_before_the_next(strategy, tmp_path):
    plain, without = Tuned(), pruning(strategy)
    module, ours = Tuned(), pruning(strategy)
    for number in range(2):
        torch.manual_seed(number)
        trainer([without], tmp_path).fit(plain)
        run = trainer([ours, Watch(ours)], tmp_path, enable_checkpointing=True)
        Tuner(run).lr_find(module, num_training=9, update_attr=False, early_stop_threshold=None)
        torch.manual_seed(number)
        run.fit(module)
        assert same(module.state_dict(), plain.state_dict())
        assert same(ours.state_dict(), without.state_dict())


class Sized(Tuned):
    """Takes its batches from a loader whose size may change."""

    def train_dataloader(self) -> Any:
        batches = data()
        return DataLoader(TensorDataset(batches.images, batches.labels), self.batch_size)


@pytest.mark.parametrize(
    ("strategy", "by"), [*((strategy, "callback") for strategy in STRATEGIES), ("taylor", "tuner")]
)
def test_the_schedule_counts_the_steps_of_the_batch_size_that_was_found(strategy, by, tmp_path):
    module, ours = Sized(), pruning(strategy, schedule="cubic")
    settings = {"steps_per_trial": 2, "init_val": 4, "max_trials": 3}
    finder = [BatchSizeFinder(**settings)] if by == "callback" else []
    run = trainer([ours, Watch(ours), *finder], tmp_path, enable_checkpointing=True)
    if by == "tuner":
        Tuner(run).scale_batch_size(module, **settings)
    run.fit(module)
    assert module.batch_size > 4
    steps = run.global_step
    assert steps == 4 * -(-48 // module.batch_size)
    assert ours.pruner.schedule.span.end == round(0.75 * steps)
    assert ours.sparsity == SPARSITY
    assert_zeros(module.state_dict(), ours.masks)


class Backbone(Module):
    """A backbone of two layers under a head that is trained from the beginning."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.net = nn.Sequential(*self.net[:3], nn.Linear(24, 24), nn.ReLU()), self.net[3]

    def forward(self, x: Any) -> Any:
        return self.net(self.backbone(x))

    def configure_optimizers(self) -> Any:
        trained = [p for p in self.parameters() if p.requires_grad]
        return torch.optim.Adam(trained, lr=1e-2, weight_decay=1e-2)


def unfreezing() -> L.Callback:
    return BackboneFinetuning(unfreeze_backbone_at_epoch=2)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_is_frozen_may_be_excluded_and_unfrozen_in_mid_run(strategy, tmp_path):
    module, _, run = holds(
        tmp_path, strategy, Backbone, callbacks=lambda: [unfreezing()], settings={"exclude": "backbone.*"}
    )
    assert len(run.optimizers[0].param_groups) == 2
    assert all((value != 0).any() for value in module.backbone.parameters())


@pytest.mark.parametrize("callbacks_first", [False, True])
def test_targets_that_are_unfrozen_in_mid_run_are_refused(callbacks_first, tmp_path):
    message = re.escape(
        "backbone.0.weight and 1 more: frozen now, and BackboneFinetuning unfreezes layers during the fit"
    )
    with pytest.raises(ValueError, match=rf"{message}.*exclude='backbone.0.\*'.*prune in the next"):
        fit(tmp_path, "taylor", Backbone, callbacks=lambda: [unfreezing()], callbacks_first=callbacks_first)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_backbone_unfrozen_in_one_fit_is_pruned_in_the_next(strategy, tmp_path):
    module = Backbone()
    trainer([unfreezing()], tmp_path).fit(module)
    ours = pruning(strategy)
    trainer([ours, Watch(ours)], tmp_path).fit(module)
    assert ours.sparsity == SPARSITY
    assert ours.layer_sparsity["backbone.0.weight"] > 0


class Layerwise(BaseFinetuning):
    """A finetuning of the user's own."""

    def freeze_before_training(self, pl_module: Any) -> None:
        self.freeze(pl_module.backbone)

    def finetune_function(self, pl_module: Any, epoch: int, optimizer: Any) -> None:
        return None


def test_a_finetuning_of_the_users_own_is_refused_likewise(tmp_path):
    with pytest.raises(ValueError, match="Layerwise unfreezes layers during the fit"):
        fit(tmp_path, "taylor", Backbone, callbacks=lambda: [Layerwise()])


@pytest.mark.parametrize("callbacks_first", [False, True])
def test_lightnings_own_pruning_of_the_same_parameters_is_refused(callbacks_first, tmp_path):
    with pytest.raises(ValueError, match=r"net.0.weight is pruned by ModelPruning already.*leave ModelPruning out"):
        fit(
            tmp_path,
            "taylor",
            callbacks=lambda: [ModelPruning("l1_unstructured", amount=0.5)],
            callbacks_first=callbacks_first,
        )


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_lightnings_own_pruning_of_other_parameters_goes_beside_it(strategy, tmp_path):
    def callbacks():
        return [Only("l1_unstructured", amount=0.5)]

    module, ours, _ = fit(tmp_path, strategy, callbacks=callbacks, settings={"targets": "net.0.weight"})
    assert ours.sparsity == SPARSITY
    assert (module.net[3].weight == 0).sum() >= 48


class Only(ModelPruning):
    """Lightning's pruning, of the last layer."""

    def filter_parameters_to_prune(self, parameters_to_prune: Any = ()) -> Any:
        return [
            (module, name)
            for module, name in parameters_to_prune
            if isinstance(module, nn.Linear) and module.out_features == 4 and name == "weight"
        ]
