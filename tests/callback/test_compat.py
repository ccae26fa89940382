"""What the callback relies on inside Lightning: each test fails when Lightning changes it."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import lightning.pytorch as L
import pytest
import pytorch_lightning as other
import torch
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    EMAWeightAveraging,
    GradientAccumulationScheduler,
    ModelCheckpoint,
    ModelPruning,
    StochasticWeightAveraging,
    WeightAveraging,
)
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, FSDPStrategy
from lightning.pytorch.tuner import Tuner
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_dynprune.callback import compat
from tests.training import trainer


class Net(L.LightningModule):
    """Two linear layers and a norm on 4 batches of 2 samples."""

    def __init__(self) -> None:
        super().__init__()
        self.lr = self.batch_size = 0
        self.net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.net(batch[0]).square().mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("loss", self.net(batch[0]).square().mean())

    def train_dataloader(self) -> Any:
        return DataLoader(TensorDataset(torch.randn(8, 3)), 2)

    val_dataloader = train_dataloader

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Spy(L.Callback):
    """Calls a function at events of a fit."""

    def __init__(self, **functions: Any) -> None:
        self.seen: list[Any] = []
        for event, function in functions.items():
            setattr(self, event, self._noted(function))

    def _noted(self, function: Any) -> Any:
        return lambda *args, **kwargs: self.seen.append(function(*args, **kwargs))


def fit(folder: Any, *callbacks: L.Callback, module: L.LightningModule | None = None, **settings: Any) -> L.Trainer:
    run = trainer(list(callbacks), folder, **{"max_epochs": 1, "num_sanity_val_steps": 0, **settings})
    run.fit(module or Net())
    return run


# --- Classes that are recognised by name


@pytest.mark.parametrize(
    ("made", "name"),
    [
        (lambda lightning: lightning.callbacks.ModelPruning("l1_unstructured"), "ModelPruning"),
        (lambda lightning: lightning.callbacks.BackboneFinetuning(), "BaseFinetuning"),
        (lambda lightning: lightning.callbacks.GradientAccumulationScheduler({0: 1}), "GradientAccumulationScheduler"),
    ],
)
@pytest.mark.parametrize("package", [L, other], ids=["lightning", "pytorch_lightning"])
def test_callbacks_have_the_class_names_that_they_are_recognised_by(package, made, name):
    assert compat.is_lightning_class(made(package), name)
    assert not compat.is_lightning_class(L.Callback(), name)


def test_a_class_of_the_same_name_elsewhere_is_not_taken_for_lightnings():
    class ModelPruning(L.Callback):
        pass

    assert not compat.is_lightning_class(ModelPruning(), "ModelPruning")


@pytest.mark.parametrize("kind", [FSDPStrategy, DeepSpeedStrategy])
def test_strategies_that_flatten_parameters_have_the_names_that_they_are_recognised_by(kind):
    run = type("Run", (), {"strategy": object.__new__(kind)})
    assert compat.flattening_strategy(run) == kind.__name__
    assert compat.flattening_strategy(type("Run", (), {"strategy": DDPStrategy()})) is None


# --- Attributes of other callbacks


@pytest.mark.parametrize(
    "average", [WeightAveraging, lambda: EMAWeightAveraging(decay=0.5), lambda: StochasticWeightAveraging(0.1)]
)
def test_an_averaging_callback_keeps_its_average_where_it_is_looked_for_from_setup_on(average, tmp_path):
    averaging = average()
    spy = Spy(on_fit_start=lambda *_: compat.averaged_model(averaging))
    assert compat.averaged_model(averaging) is None
    fit(tmp_path, averaging, spy, max_epochs=2)
    (found,) = spy.seen
    assert [name for name, _ in found.named_parameters()] == [name for name, _ in Net().named_parameters()]


def test_other_callbacks_keep_no_average():
    assert compat.averaged_model(ModelCheckpoint()) is None


def test_model_pruning_holds_the_parameters_that_it_prunes_from_setup_on(tmp_path):
    module, other_pruning = Net(), ModelPruning("l1_unstructured", amount=0.5)
    spy = Spy(on_fit_start=lambda *_: list(compat.parameters_of_model_pruning(other_pruning)))
    fit(tmp_path, other_pruning, spy, module=module)
    assert (module.net[0], "weight") in spy.seen[0]
    assert compat.parameters_of_model_pruning(ModelCheckpoint()) == ()


def test_finetuning_callbacks_are_recognised():
    assert compat.unfreezes_layers(BackboneFinetuning())
    assert not compat.unfreezes_layers(ModelCheckpoint())


def test_an_accumulation_scheduler_returns_the_batches_of_each_epoch():
    batches = compat.accumulation_schedule([ModelCheckpoint(), GradientAccumulationScheduler({0: 1, 1: 2, 3: 4})])
    assert [batches(epoch) for epoch in range(5)] == [1, 2, 2, 4, 4]
    assert compat.accumulation_schedule([ModelCheckpoint()]) is None


# --- The length of training


def test_stochastic_weight_averaging_appends_an_epoch_after_setup(tmp_path):
    spy = Spy(setup=lambda run, *_, **__: run.max_epochs, on_fit_start=lambda run, *_: run.max_epochs)
    fit(tmp_path, StochasticWeightAveraging(0.1), spy, max_epochs=2)
    assert spy.seen == [2, 3]


def test_the_estimated_steps_follow_the_epochs_of_the_fit_loop(tmp_path):
    def counted(run: L.Trainer, *_: Any) -> tuple[Any, ...]:
        with compat.epochs_limited_to(run, 5):
            inside = run.max_epochs, run.estimated_stepping_batches
        return (*inside, run.max_epochs, run.estimated_stepping_batches)

    spy = Spy(on_fit_start=counted)
    fit(tmp_path, spy, max_epochs=2)
    assert spy.seen == [(5, 20, 2, 8)]


def test_the_limit_of_epochs_is_put_back_after_an_error():
    run = L.Trainer(max_epochs=3, logger=False, enable_checkpointing=False, enable_progress_bar=False)
    with pytest.raises(OSError, match="lost"), compat.epochs_limited_to(run, 1):
        raise OSError("lost")
    assert run.max_epochs == 3


# --- The order of events and the loop counters


def test_events_come_in_the_order_that_the_callback_relies_on(tmp_path):
    events = [
        "setup",
        "load_state_dict",
        "on_fit_start",
        "on_train_start",
        "on_train_epoch_start",
        "on_train_batch_start",
        "on_before_optimizer_step",
        "on_train_batch_end",
        "on_validation_epoch_end",
        "on_validation_end",
        "on_train_end",
        "teardown",
    ]
    saver = ModelCheckpoint(tmp_path, "middle", every_n_epochs=1)
    fit(tmp_path, Keeps(), saver)
    keeps = Keeps(**{event: lambda *_, event=event, **__: event for event in events})
    run = trainer([keeps], tmp_path, max_epochs=2, num_sanity_val_steps=0)
    run.fit(Net(), ckpt_path=tmp_path / "middle.ckpt")
    assert list(dict.fromkeys(keeps.seen)) == events


class Keeps(Spy):
    """A callback with a state."""

    state_key = "keeps"

    def state_dict(self) -> dict[str, Any]:
        return {"kept": 1}


def test_only_the_last_batch_of_an_epoch_is_the_last_also_while_it_steps(tmp_path):
    def is_last(run: L.Trainer, *_: Any, **__: Any) -> bool:
        return run.is_last_batch

    names = ("on_train_batch_start", "on_before_optimizer_step", "on_train_batch_end")
    spies = [Spy(**{name: is_last}) for name in names]
    fit(tmp_path, *spies, max_epochs=2)
    assert [spy.seen for spy in spies] == [[False, False, False, True] * 2] * 3


def test_counters_at_the_end_of_a_validation_are_those_of_the_epoch_that_runs(tmp_path):
    spy = Spy(on_validation_end=lambda run, *_: (run.current_epoch, run.global_step))
    fit(tmp_path, spy, max_epochs=2)
    assert spy.seen == [(0, 4), (1, 8)]


# --- Clipping


class Clips(Net):
    """Clips by itself, as LightningModule.configure_gradient_clipping allows."""

    def configure_gradient_clipping(self, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        self.clip_gradients(optimizer, gradient_clip_val=0.5, gradient_clip_algorithm="norm")


class ByHand(Net):
    """Clips in manual optimization."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer = self.optimizers()
        self.manual_backward(super().training_step(batch, batch_idx))
        self.clip_gradients(optimizer, gradient_clip_val=0.5, gradient_clip_algorithm="norm")
        optimizer.step()


@pytest.mark.parametrize(("make", "clip"), [(Net, 0.5), (Clips, None), (ByHand, None)])
def test_all_clipping_goes_through_the_method_that_is_replaced(make, clip, tmp_path):
    calls: list[tuple[Any, ...]] = []

    def replace(run: L.Trainer, *_: Any) -> None:
        own = compat.clip_method(run.precision_plugin)

        def counting(optimizer: Any, clip_val: Any = 0.0, gradient_clip_algorithm: Any = "norm") -> None:
            calls.append((clip_val, str(getattr(gradient_clip_algorithm, "value", gradient_clip_algorithm))))
            own(optimizer, clip_val, gradient_clip_algorithm)

        compat.replace_clip_method(run.precision_plugin, counting)

    run = fit(tmp_path, Spy(on_fit_start=replace), module=make(), gradient_clip_val=clip)
    assert calls == [(0.5, "norm")] * 4
    compat.restore_clip_method(run.precision_plugin)
    assert "clip_gradients" not in vars(run.precision_plugin)
    assert callable(compat.clip_method(run.precision_plugin))


# --- Finders that set callbacks aside


@pytest.mark.parametrize("find", ["lr", "batch size"])
def test_finders_set_the_callbacks_aside_while_they_try_settings_out(find, tmp_path):
    aside: list[bool] = []

    class Tells(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            aside.append(compat.is_set_aside(self.trainer, spy))
            return super().training_step(batch, batch_idx)

    module, spy = Tells(), Spy()
    module.lr, module.batch_size = 0.1, 2
    run = trainer([spy], tmp_path, max_epochs=1, enable_checkpointing=True)
    if find == "lr":
        Tuner(run).lr_find(module, num_training=3, update_attr=False, early_stop_threshold=None)
    else:
        Tuner(run).scale_batch_size(module, steps_per_trial=1, max_trials=2)
    assert aside
    assert all(aside)
    aside.clear()
    run.fit(module)
    assert aside == [False] * 4


# --- Results of worker processes


@pytest.mark.parametrize(("strategy", "is_worker"), [("ddp_spawn", True), ("ddp_fork", True), ("ddp", False)])
def test_the_launcher_of_worker_processes_has_the_name_that_it_is_recognised_by(strategy, is_worker, tmp_path):
    run = trainer([], tmp_path, strategy=strategy, devices=2)
    run.strategy._configure_launcher()  # as Trainer.fit does
    assert compat.is_worker(run) is is_worker


DELIVERED: list[str] = []


def deliver(text: str) -> None:
    DELIVERED.append(text)


class Message:
    """A message that is delivered when it is unpickled."""

    def __reduce__(self) -> Any:
        return deliver, ("from the worker",)


def test_what_a_worker_attaches_to_its_results_is_unpickled_in_the_main_process(tmp_path):
    run = trainer([], tmp_path, strategy="ddp_fork", devices=2)
    run.strategy._configure_launcher()
    run.strategy.connect(Net())
    compat.add_to_results(run, Message())
    launcher = run.strategy.launcher
    sent = pickle.dumps(launcher._collect_rank_zero_results(run, None))
    assert not DELIVERED
    launcher._recover_results_in_main_process(pickle.loads(sent), run)
    assert DELIVERED == ["from the worker"]
    assert hasattr(run.state, compat.RESULTS_ATTRIBUTE)


def test_the_state_of_a_trainer_takes_a_further_attribute_and_copies_it(tmp_path):
    run = trainer([], tmp_path)
    compat.add_to_results(run, "first")
    compat.add_to_results(run, "second")
    assert getattr(copy.copy(run.state), compat.RESULTS_ATTRIBUTE) == ["first", "second"]


def test_the_intervals_at_which_a_checkpoint_saves_its_best_are_read():
    assert compat.monitored_save_interval(ModelCheckpoint(monitor="loss")) == (0, 1)
    assert compat.monitored_save_interval(ModelCheckpoint(monitor="loss", every_n_train_steps=3)) == (3, 0)
    assert compat.monitored_save_interval(ModelCheckpoint()) is None
    assert compat.monitored_save_interval(EMAWeightAveraging()) is None


def test_a_validation_of_a_fit_is_told_from_one_of_its_own(tmp_path):
    spy = Spy(on_validation_start=lambda run, *_: compat.is_fitting(run))
    run = trainer([spy], tmp_path, max_epochs=1)
    run.fit(Net())
    assert set(spy.seen) == {True}
    run.validate(Net(), verbose=False)
    assert spy.seen[-1] is False


def test_a_batch_is_converted_and_passes_the_hooks_of_its_module(tmp_path):
    class Hooked(Net):
        def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return [batch[0] + 1]

        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return [batch[0] * 2]

    found: list[Any] = []
    spy = Spy(on_fit_end=lambda run, *_: found.append(compat.batch_for_model(run, [torch.ones(1)])))
    trainer([spy], tmp_path, max_epochs=1, precision="64-true").fit(Hooked())
    assert found[0][0].dtype == torch.float64
    assert found[0][0].item() == 4


def test_a_fit_that_has_validated_nothing_has_its_validation_loader_at_the_end(tmp_path):
    found: list[Any] = []
    spy = Spy(on_fit_end=lambda run, *_: found.extend([run.val_dataloaders, compat.validation_loader(run)]))
    trainer([spy], tmp_path, max_epochs=1, num_sanity_val_steps=0, check_val_every_n_epoch=5).fit(Net())
    assert found[0] is None
    assert len(found[1]) == 4
