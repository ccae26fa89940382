"""The accuracy guard in a Trainer: a training on digits, and the validations that are left."""

from __future__ import annotations

from typing import Any

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_dynprune import DynamicPruning
from lightning_dynprune.engine import AccuracyGuard


def test_a_guard_without_a_journal_is_refused():
    with pytest.raises(ValueError, match="journal=False does not go with a guard"):
        DynamicPruning(sparsity=0.5, journal=False, guard=AccuracyGuard())


class Digits(L.LightningModule):
    """A small network on scikit-learn's digits."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        self.accuracies: list[float] = []

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        accuracy = (self.net(batch[0]).argmax(1) == batch[1]).float().mean()
        self.accuracies.append(float(accuracy))
        self.log("val_acc", accuracy)

    def configure_optimizers(self):
        adam = torch.optim.Adam(self.parameters(), lr=1e-2)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(adam, T_max=18)
        return {"optimizer": adam, "lr_scheduler": cosine}


@pytest.fixture(scope="module")
def digits():
    from sklearn.datasets import load_digits

    x, y = (torch.from_numpy(a) for a in load_digits(return_X_y=True))
    x, mixed = x.float() / 16, torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    training, held_out = (TensorDataset(x[i], y[i]) for i in (mixed[:1300], mixed[1300:]))
    return DataLoader(training, batch_size=100), DataLoader(held_out, batch_size=len(held_out))


def trained_on(digits, folder, callbacks: list[L.Callback], model: Digits | None = None, **length: Any) -> Digits:
    model = Digits() if model is None else model
    trainer = L.Trainer(
        **(length or {"max_epochs": 18}),
        callbacks=callbacks,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=folder,
    )
    trainer.fit(model, *digits)
    trainer.validate(model, digits[1], verbose=False)
    return model


@pytest.fixture(scope="module")
def dense(digits, tmp_path_factory) -> float:
    return trained_on(digits, tmp_path_factory.mktemp("dense"), []).accuracies[-1]


SCHEDULE = {"name": "cubic", "begin": "7 epochs", "end": "12 epochs", "every": "1 epoch"}


@pytest.mark.filterwarnings("ignore:.*is down to min_kept")
@pytest.mark.parametrize("length", [{"max_epochs": 18}, {"max_steps": 18 * 13}], ids=["in_epochs", "in_steps"])
def test_far_too_sparse_a_run_ends_inside_the_limit_with_the_guard_and_says_why(length, digits, dense, tmp_path):
    guard = AccuracyGuard(max_drop=0.01, reference=dense)
    pruning = DynamicPruning(sparsity=0.999, schedule=SCHEDULE, guard=guard)
    with pytest.warns(UserWarning, match=r"is short of the target 0\.9990: the guard held it \(step \d+: val_acc"):
        guarded = trained_on(digits, tmp_path, [pruning], **length)
    assert guarded.accuracies[-1] >= dense - 0.01
    assert 0.3 < pruning.sparsity < 0.999
    assert guard.holds
    notes = [text for _, text in pruning.pruner.journal.notes]
    assert any("pruning pauses at sparsity" in text for text in notes)
    assert f"sparsity {pruning.sparsity:.4f}, and held" in notes[-1]


@pytest.mark.filterwarnings("ignore:.*is down to min_kept")
def test_the_same_run_without_the_guard_does_not(digits, dense, tmp_path):
    pruning = DynamicPruning(sparsity=0.999, schedule=SCHEDULE)
    free = trained_on(digits, tmp_path, [pruning])
    assert free.accuracies[-1] < dense - 0.01
    assert pruning.sparsity == pytest.approx(0.999, abs=1e-3)


class RecordingGuard(AccuracyGuard):
    """A guard that records the number of validations left, as it is passed to ``judge``."""

    def judge(self, value, pruner, left=None):
        self.left = [*getattr(self, "left", []), left]
        return super().judge(value, pruner, left)


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        ({"max_epochs": 3}, [2, 1, 0]),
        ({"max_steps": 39}, [2, 1, 0]),
        ({"max_steps": 45}, [2, 1, 0]),  # the fourth epoch is broken off before its validation
        ({"max_epochs": 9, "max_steps": 26}, [1, 0]),
        ({"max_epochs": 4, "check_val_every_n_epoch": 2}, [1, 0]),
        ({"max_epochs": 5, "check_val_every_n_epoch": 2}, [1, 0]),
    ],
    ids=str,
)
def test_the_guard_gets_the_number_of_validations_left(length, expected, digits, tmp_path):
    guard = RecordingGuard(reference=0.0)
    schedule = {"name": "one_shot", "begin": 5}
    trained_on(digits, tmp_path, [DynamicPruning(sparsity=0.5, schedule=schedule, guard=guard)], **length)
    assert guard.left == expected


def test_a_metric_that_is_not_logged_is_named(digits, tmp_path):
    pruning = DynamicPruning(sparsity=0.5, guard=AccuracyGuard(monitor="val_f1"))
    with pytest.raises(ValueError, match=r"monitor='val_f1' was not logged in validation; there are .*val_acc"):
        trained_on(digits, tmp_path, [pruning], max_epochs=1)


@pytest.mark.parametrize(
    "length",
    [
        {"max_steps": 8, "accumulate_grad_batches": 4, "val_check_interval": 1},
        {"max_epochs": 3, "val_check_interval": 4},
        {"max_epochs": 3, "val_check_interval": 0.25, "check_val_every_n_epoch": 2},
        {"max_steps": 30, "val_check_interval": 5},
        {"max_steps": 9, "accumulate_grad_batches": 3, "val_check_interval": 4},
        {"max_epochs": 3, "val_check_interval": 5, "check_val_every_n_epoch": None},
        {"max_epochs": 4, "max_steps": 40, "val_check_interval": 11, "check_val_every_n_epoch": None},
        {"max_epochs": 2, "accumulate_grad_batches": 2, "limit_train_batches": 6, "val_check_interval": 3},
    ],
    ids=str,
)
def test_several_validations_an_epoch_are_counted_down_to_the_last_one(length, digits, tmp_path):
    guard = RecordingGuard(reference=0.0)
    schedule = {"name": "one_shot", "begin": 2}
    trained_on(digits, tmp_path, [DynamicPruning(sparsity=0.5, schedule=schedule, guard=guard)], **length)
    assert len(guard.left) > 1
    assert guard.left == list(range(len(guard.left)))[::-1]


class GuardAtStart(L.Callback):
    """Records the guard's state when a training starts."""

    def __init__(self, guard: AccuracyGuard) -> None:
        self.guard, self.states = guard, []

    def on_train_start(self, trainer, pl_module):
        self.states.append(self.guard.state_dict())


def test_the_next_fit_of_another_network_begins_with_a_guard_that_has_judged_nothing(digits, tmp_path):
    guard = AccuracyGuard(max_drop=0.0, patience=1)
    start = GuardAtStart(guard)
    pruning = DynamicPruning(sparsity=0.99, schedule={"name": "one_shot", "begin": 20}, guard=guard)
    with pytest.warns(UserWarning, match="is short of the target"):
        trained_on(digits, tmp_path, [pruning, start], max_epochs=4)
    assert guard.holds
    trained_on(digits, tmp_path, [pruning, start], max_epochs=2)
    assert start.states == [AccuracyGuard().state_dict()] * 2


def test_the_next_fit_of_the_same_network_keeps_the_dense_value_alone(digits, tmp_path):
    guard = AccuracyGuard(max_drop=1.0)
    start = GuardAtStart(guard)
    pruning = DynamicPruning(sparsity=0.5, schedule={"name": "one_shot", "begin": 20}, guard=guard)
    model = trained_on(digits, tmp_path, [pruning, start], max_epochs=3)
    before = guard.state_dict()
    assert before["good"]
    trained_on(digits, tmp_path, [pruning, start], model=model, max_epochs=2)
    assert start.states[1] == {**AccuracyGuard().state_dict(), "best": before["best"]}


def test_a_refused_state_leaves_the_guard_as_it_was(digits, tmp_path):
    guard = AccuracyGuard(max_drop=1.0)
    pruning = DynamicPruning(sparsity=0.5, schedule={"name": "one_shot", "begin": 20}, guard=guard)
    trained_on(digits, tmp_path, [pruning], max_epochs=3)
    state, before = pruning.state_dict(), guard.state_dict()
    with pytest.raises(ValueError, match="checkpoint"):
        pruning._load({**state, "guard": {**before, "best": 0.123}, "updates": 7})
    assert guard.state_dict() == before


@pytest.mark.parametrize("settings", [{"strategy": "wanda"}, {"reconstruct": True}, {"strategy": "snip"}], ids=str)
def test_until_the_limit_it_prunes_on_by_inputs_and_gradients_of_the_next_batch(settings, digits, tmp_path):
    guard = AccuracyGuard(max_drop=1.0, reference=1.0, until_limit=True, patience=1)
    pruning = DynamicPruning(sparsity=0.5, schedule={"name": "one_shot", "begin": 5}, guard=guard, **settings)
    trained_on(digits, tmp_path, [pruning], max_epochs=5)
    assert round(pruning.sparsity, 2) == round(1 - 0.5 * 0.8**3, 2)


class Flattered(Digits):
    """Logs a better value before training than any that follows."""

    def validation_step(self, batch, batch_idx):
        self.log("val_acc", 1.0 if self.trainer.sanity_checking else 0.5)


def test_the_sanity_check_is_no_validation_of_the_dense_network(digits, tmp_path):
    guard = AccuracyGuard(max_drop=0.01)
    schedule = {"name": "linear", "begin": 20, "end": 30, "every": 5}
    pruning = DynamicPruning(sparsity=0.5, strategy="magnitude", schedule=schedule, guard=guard)
    trainer = L.Trainer(
        max_epochs=3, callbacks=[pruning], accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=1, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(Flattered(), *digits)
    assert guard.state_dict()["best"] == 0.5
    assert not pruning.pruner.paused
    assert pruning.sparsity == 0.5
