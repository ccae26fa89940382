"""The accuracy guard in a Trainer: a training on digits, and the validations that are left."""

from __future__ import annotations

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


def trained_on(digits, folder, callbacks: list[L.Callback], **length: int) -> Digits:
    model = Digits()
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
