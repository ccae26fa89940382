"""The internals of Lightning and torch that app/compat.py relies on are as it describes them."""

from __future__ import annotations

import lightning.pytorch as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from lightning_dynprune.app.compat import SAMPLER_ATTRIBUTE, resumes_exactly_after

BATCHES = 6


class Loader:
    """Six batches, with a sampler that records the epochs that are set."""

    def __init__(self):
        self.epochs = []
        setattr(self, SAMPLER_ATTRIBUTE, self)

    def set_epoch(self, epoch):
        self.epochs.append(epoch)

    def __len__(self):
        return BATCHES

    def __iter__(self):
        return iter(torch.ones(BATCHES, 2, 3))


class Module(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def training_step(self, batch, batch_idx):
        return self.layer(batch).mean()

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class Recorder(L.Callback):
    """Records the answer after each batch, and "validation" where one runs."""

    def __init__(self):
        self.events = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.events.append(resumes_exactly_after(trainer, batch_idx))

    def on_validation_start(self, trainer, pl_module):
        self.events.append("validation")


def fit(tmp_path, loader=None, **settings):
    recorder = Recorder()
    trainer = L.Trainer(
        max_epochs=2,
        accelerator="cpu",
        callbacks=[recorder],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=tmp_path,
        **settings,
    )
    trainer.fit(Module(), loader or Loader(), DataLoader(torch.ones(2, 3)))
    return recorder.events


NO, YES, RUN = False, True, "validation"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, 2 * [YES, YES, YES, YES, YES, NO, RUN]),
        ({"val_check_interval": 2}, 2 * [YES, NO, RUN, YES, NO, RUN, YES, NO, RUN]),
        ({"accumulate_grad_batches": 2}, 2 * [NO, YES, NO, YES, NO, NO, RUN]),
        (
            {"val_check_interval": 4, "check_val_every_n_epoch": None},
            [YES, YES, YES, NO, RUN, YES, NO, YES, NO, RUN, YES, YES, YES, NO, RUN],
        ),
    ],
    ids=["end of epoch", "every 2 batches", "accumulation", "every 4 batches over epochs"],
)
def test_a_checkpoint_is_exact_unless_a_validation_or_the_end_of_the_epoch_follows(tmp_path, settings, expected):
    assert fit(tmp_path, **settings) == expected


def test_validation_by_wall_time_may_follow_any_batch(tmp_path):
    assert not any(event is True for event in fit(tmp_path, val_check_interval="00:01:00:00"))


def test_lightning_sets_the_epoch_on_the_sampler_of_a_loader(tmp_path):
    loader = Loader()
    fit(tmp_path, loader)
    assert sorted(set(loader.epochs)) == [0, 1]
