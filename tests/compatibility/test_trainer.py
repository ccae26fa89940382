"""What a Trainer is asked to do, beside pruning."""

from __future__ import annotations

import os
import signal
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lightning_dynprune import DynamicPruning
from lightning_dynprune.schedules import Cosine
from tests.compatibility.runs import (
    SCHEDULE,
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

SETTINGS: dict[str, dict[str, Any]] = {
    "batches limited to a number": {"limit_train_batches": 5},
    "batches limited to a share": {"limit_train_batches": 0.9},
    "overfit": {"overfit_batches": 5},
    "steps limited": {"max_steps": 21, "max_epochs": -1},
    "time limited, and not reached": {"max_time": timedelta(hours=1)},
    "validation in mid-epoch": {"val_check_interval": 2},
    "validation after shares of an epoch": {"val_check_interval": 0.5},
    "validation every other epoch": {"check_val_every_n_epoch": 2},
    "validation by steps across epochs": {"val_check_interval": 4, "check_val_every_n_epoch": None},
    "validation under no_grad": {"inference_mode": False},
    "loaders built anew": {"reload_dataloaders_every_n_epochs": 1},
    "anomalies detected": {"detect_anomaly": True},
    "sampler left alone": {"use_distributed_sampler": False},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_settings_of_a_trainer_are_exact_and_resume_to_the_bit(strategy, settings, tmp_path):
    _, ours, _ = holds(tmp_path, strategy, save_at=13, **settings)
    assert ours.pruner.clock.step >= SCHEDULE["end"]


@pytest.mark.parametrize("batches", [1, 3])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_development_run_with_the_default_schedule_just_works(strategy, batches, tmp_path):
    module, ours = Module(), DynamicPruning(sparsity=SPARSITY, strategy=strategy)
    trainer([ours, Watch(ours)], tmp_path, fast_dev_run=batches).fit(module)
    assert ours.pruner.clock.step == batches
    assert ours.sparsity == SPARSITY
    assert_zeros(module.state_dict(), ours.masks)


LATER = {
    "steps": {"name": "cubic", "begin": 1000, "end": 20000, "every": 100},
    "epochs": {"name": "cubic", "begin": "2 epochs", "end": "20 epochs", "every": "1 epoch"},
    "one shot": {"name": "one_shot", "begin": "1000 steps"},
    "acdc": {"name": "acdc", "begin": "100 steps", "end": "8000 steps", "every": "500 steps"},
}


@pytest.mark.parametrize("schedule", LATER.values(), ids=LATER)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_development_run_updates_once_where_the_schedule_is_for_a_longer_training(strategy, schedule, tmp_path):
    ours = DynamicPruning(sparsity=SPARSITY, strategy=strategy, schedule=schedule)
    with pytest.warns(
        UserWarning, match=r"lies after this trial run, which ends at 1 (steps|epochs); all updates are replaced"
    ):
        trainer([ours, Watch(ours)], tmp_path, fast_dev_run=True).fit(Module())
    assert (ours.pruner.updates, ours.sparsity) == (1, SPARSITY)


def test_a_development_run_tries_settings_that_change_over_training(tmp_path):
    strategy = {"name": "rigl", "exchange": Cosine(0.0, 0.3, begin=0, end=9000, every=100)}
    ours = DynamicPruning(
        sparsity=SPARSITY, strategy=strategy, schedule={"name": "constant", "end": 9000, "every": 100}
    )
    with pytest.warns(UserWarning, match="replaced by one at its end"):
        trainer([ours, Watch(ours)], tmp_path, fast_dev_run=2).fit(Module())
    assert ours.sparsity == SPARSITY


@pytest.mark.parametrize("settings", [{"overfit_batches": 1}, {"overfit_batches": 0.5}, {"limit_train_batches": 1}])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_default_schedule_fits_the_shortest_trainings(strategy, settings, tmp_path):
    for epochs in (1, 2):
        ours = DynamicPruning(sparsity=SPARSITY, strategy=strategy)
        run = trainer([ours, Watch(ours)], tmp_path, max_epochs=epochs, **settings)
        run.fit(Module())
        assert run.global_step == epochs * (3 if settings == {"overfit_batches": 0.5} else 1)
        assert ours.sparsity == SPARSITY


def test_a_schedule_for_a_longer_training_is_refused_where_it_is_no_development_run(tmp_path):
    message = r"end=20000 \(20000 steps\) lies after training, which ends at 4 steps; give an end of at most 4 steps"
    with pytest.raises(ValueError, match=message):
        fit(tmp_path, "taylor", settings={"schedule": LATER["steps"]}, limit_train_batches=1)


def test_shares_of_a_training_that_only_time_ends_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"share of training, whose length is not known; give begin in steps"):
        fit(tmp_path, "taylor", settings={"schedule": "cubic"}, max_time="00:00:01:00", max_epochs=-1)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_training_that_time_ends_is_exact_and_says_what_it_did_not_reach(strategy, tmp_path):
    with pytest.warns(
        UserWarning, match=r"short of the target 0.7500: training ended at step \d+, before the schedule"
    ):
        _, ours, run = fit(tmp_path, strategy, callbacks=lambda: [Late()], max_time=timedelta(hours=1))
    assert 0 < run.global_step < 24
    assert 0 < ours.sparsity < SPARSITY


class Late(L.Callback):
    """Lets the time be over at once, in the second epoch."""

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        if trainer.global_step == 9:
            timer = next(callback for callback in trainer.callbacks if type(callback).__name__ == "Timer")
            timer._duration = 0.0


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_best_checkpoint_is_tested_and_predicted_with_as_it_was_saved(strategy, tmp_path):
    saver = ModelCheckpoint(tmp_path / "saved", "{step}", monitor="val_loss", mode="max")  # an early one, not the last
    module, ours, run = fit(tmp_path, strategy, callbacks=lambda: [saver])
    end, state, masks = {k: v.clone() for k, v in module.state_dict().items()}, ours.state_dict(), ours.masks
    masks = {name: mask.clone() for name, mask in masks.items()}
    assert saved_sparsity(Path(saver.best_model_path)) < SPARSITY
    best = torch.load(saver.best_model_path, weights_only=True)["state_dict"]
    for use in (run.test, run.validate, lambda m, **how: run.predict(m, DataLoader(data().images, 8), **how)):
        module.load_state_dict(end)
        use(module, ckpt_path="best")
        assert same(dict(module.state_dict()), best), "the weights of the checkpoint were changed"
        assert same(ours.state_dict(), state), "the state of the pruning was changed"
        assert same(ours.masks, masks)


def test_a_fit_after_a_test_of_a_checkpoint_follows_the_whole_schedule(tmp_path):
    saver = ModelCheckpoint(tmp_path / "saved", "{step}", monitor="val_loss", mode="max")
    module, ours, run = fit(tmp_path, "taylor", callbacks=lambda: [saver])
    run.test(module, ckpt_path="best")
    trainer([ours, Watch(ours)], tmp_path).fit(module)
    assert ours.pruner.clock.step == 24
    assert_zeros(module.state_dict(), ours.masks)
    assert ours.sparsity == SPARSITY


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_validating_between_fits_changes_nothing(strategy, tmp_path):
    results = []
    for validated in (False, True):
        module, ours = Module(), pruning(strategy, schedule={**SCHEDULE, "end": 12})
        run = trainer([ours, Watch(ours)], tmp_path, max_epochs=2)
        for epochs in (2, 4):
            run.fit_loop.max_epochs = epochs
            torch.manual_seed(epochs)
            run.fit(module)
            if validated:
                run.validate(module)
                trainer([ours], tmp_path).test(module)
        results.append((dict(module.state_dict()), ours.state_dict()))
    assert same(*results)


class Looks(L.Callback):
    """Validates in the middle of a fit, by a Trainer of its own that has the same callback."""

    def __init__(self, ours: DynamicPruning, folder: Path) -> None:
        self.ours, self.folder, self.looked = ours, folder, 0

    def on_train_epoch_end(self, run: Any, pl_module: Any) -> None:
        copy = Module()
        copy.load_state_dict(pl_module.state_dict())
        trainer([self.ours], self.folder).validate(copy)
        self.looked += 1


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_validation_by_another_trainer_in_mid_fit_changes_nothing(strategy, tmp_path):
    plain, without, _ = fit(tmp_path, strategy)
    module, ours = Module(), pruning(strategy)
    looks = Looks(ours, tmp_path)
    torch.manual_seed(7)
    trainer([ours, Watch(ours), looks], tmp_path).fit(module)
    assert looks.looked == 4
    assert same(module.state_dict(), plain.state_dict())
    assert same(ours.state_dict(), without.state_dict())


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_trainer_that_goes_on_with_more_epochs_goes_on_where_the_pruning_stood(strategy, tmp_path):
    module, ours = Module(), pruning(strategy, sparsity=None, schedule={**SCHEDULE, "end": 12, "final": SPARSITY})
    run = trainer([ours, Watch(ours)], tmp_path, max_epochs=2)
    run.fit(module)
    masks, updates = {name: mask.clone() for name, mask in ours.masks.items()}, ours.pruner.updates
    run.fit_loop.max_epochs = 4
    run.fit(module)
    assert (ours.pruner.clock.step, ours.pruner.updates) == (24, updates)
    assert same(ours.masks, masks)
    assert_zeros(module.state_dict(), ours.masks)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_another_trainer_follows_the_schedule_anew_from_what_is_pruned(strategy, tmp_path):
    module, ours = Module(), pruning(strategy, sparsity=0.5)
    trainer([ours, Watch(ours)], tmp_path).fit(module)
    first = {name: mask.clone() for name, mask in ours.masks.items()}
    trainer([ours, Watch(ours), (least := Least(ours))], tmp_path).fit(module)
    assert ours.pruner.clock.step == 24
    assert (least.sparsity, ours.sparsity) == (0.5, 0.5)
    if strategy == "taylor":  # hard masks do not grow
        assert same(ours.masks, first)


class Least(L.Callback):
    """Remembers the lowest sparsity of a run."""

    def __init__(self, ours: DynamicPruning) -> None:
        self.ours, self.sparsity = ours, 1.0

    def on_train_batch_end(self, *args: Any) -> None:
        self.sparsity = min(self.sparsity, self.ours.sparsity)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_callbacks_on_disjoint_targets_resume_to_the_bit(strategy, tmp_path):
    def second() -> list[L.Callback]:
        return [pruning(strategy, sparsity=0.5, targets="net.3.*", name="head")]

    _, ours, run = holds(tmp_path, strategy, callbacks=second, settings={"targets": "net.0.*"})
    other = next(callback for callback in run.callbacks if getattr(callback, "name", None) == "head")
    assert (ours.sparsity, other.sparsity) == (SPARSITY, 0.5)
    assert set(ours.masks) == {"net.0.weight"}
    assert set(other.masks) == {"net.3.weight"}


def test_two_callbacks_on_the_same_target_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"net.3.weight is pruned by another pruner already; give the two disjoint"):
        fit(tmp_path, "taylor", callbacks=lambda: [pruning("magnitude", targets="net.3.*", name="head")])
    _, ours, _ = fit(tmp_path, "taylor")  # the refusal lets go of the model
    assert ours.sparsity == SPARSITY


def test_two_callbacks_without_names_are_refused(tmp_path):
    with pytest.raises(RuntimeError, match="more than one stateful callback of type `DynamicPruning`"):
        fit(tmp_path, "taylor", callbacks=lambda: [pruning("taylor", targets="net.3.*")])


class Stream(IterableDataset):
    """Batches one after the other, nobody knows how many."""

    def __iter__(self) -> Any:
        return iter(data())


class Streamed(Module):
    """Trains on a stream."""

    def train_dataloader(self) -> Any:
        return DataLoader(Stream(), batch_size=None)


# A loader of torch does not go on in mid-epoch, so these runs are left where an epoch ends.
AT_EPOCH = {"every_n_epochs": 2, "save_on_train_epoch_end": True}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_stream_of_unknown_length_is_exact_and_resumes_to_the_bit(strategy, tmp_path):
    holds(tmp_path, strategy, Streamed, save_at=AT_EPOCH)


def test_shares_of_a_stream_of_unknown_length_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"share of training, whose length is not known"):
        fit(tmp_path, "taylor", Streamed, settings={"schedule": "cubic"})


class Several(Module):
    """Trains on two loaders of different lengths, and validates on two."""

    mode = "min_size"

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        losses = [self.loss(part) for part in batch.values() if part is not None]
        return torch.stack(losses).mean()

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("val_loss", self.loss(batch))

    def train_dataloader(self) -> Any:
        sets = {"many": data(batches=9), "few": data(batches=6)}
        loaders = {key: DataLoader(TensorDataset(s.images, s.labels), 8) for key, s in sets.items()}
        return CombinedLoader(loaders, self.mode)

    def val_dataloader(self) -> Any:
        return [data(batches=1), data(batches=2)]


class Cycled(Several):
    """Goes through the shorter loader again until the longer one ends."""

    mode = "max_size_cycle"


@pytest.mark.parametrize("make", [Several, Cycled])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_several_loaders_are_exact_and_resume_to_the_bit(strategy, make, tmp_path):
    settings = {"schedule": {"name": "cubic", "end": 1.0}}
    _, ours, run = holds(tmp_path, strategy, make, save_at=AT_EPOCH, settings=settings)
    assert ours.pruner.schedule.span.end == run.global_step == (24 if make is Several else 36)


class Terminated(L.Callback):
    """Is sent SIGTERM in training, as by a cluster that takes its machine back."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 10:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_checkpoint_written_on_sigterm_is_gone_on_from_to_the_bit(strategy, tmp_path):
    module, ours, _ = fit(tmp_path, strategy)
    saver = ModelCheckpoint(tmp_path / "saved", "{step}", save_on_exception=True, every_n_epochs=9)
    with pytest.raises(SIGTERMException):
        fit(tmp_path, strategy, callbacks=lambda: [Terminated(), saver])
    (path,) = (tmp_path / "saved").glob("*.ckpt")
    assert saved_sparsity(path) > 0
    resumed, theirs, _ = fit(tmp_path, strategy, resume=path)
    assert same(resumed.state_dict(), module.state_dict())
    assert same(theirs.state_dict(), ours.state_dict())


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_bare_trainer_prunes_as_any_other(strategy, tmp_path, recwarn):
    module, ours, _ = fit(tmp_path, strategy, Silent, barebones=True)
    plain, without, _ = fit(tmp_path, strategy, Silent, num_sanity_val_steps=0)
    assert same(module.state_dict(), plain.state_dict())
    assert same(ours.state_dict(), without.state_dict())
    assert not [warning for warning in recwarn if "self.log" in str(warning.message)]


class Silent(Module):
    """Logs nothing itself."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.loss(batch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.loss(batch)
