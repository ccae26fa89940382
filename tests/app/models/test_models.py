"""The networks as their papers have them, and the module that trains them."""

from __future__ import annotations

import lightning.pytorch as L
import pytest
import torch
from torch import nn

from lightning_dynprune.app.data.batches import TensorBatches
from lightning_dynprune.app.models import Classifier, ConvNet, ConvNet4, LeNet5, LeNet300100


@pytest.mark.parametrize(
    ("network", "shape", "parameters", "weights"),
    [
        (LeNet300100, (1, 28, 28), 266_610, [235_200, 30_000, 1_000]),
        (LeNet5, (1, 28, 28), 431_080, [500, 25_000, 400_000, 5_000]),
        (LeNet300100, (1, 8, 8), 50_610, [19_200, 30_000, 1_000]),
        (ConvNet, (3, 9, 7), 6_426, [432, 4_608, 1_280]),
        (ConvNet4, (1, 8, 8), 260_682, [576, 36_864, 73_728, 147_456, 1_280]),
    ],
)
def test_a_network_has_the_parameters_of_its_paper_and_a_score_a_class(network, shape, parameters, weights):
    made = network(shape, 10)
    assert sum(p.numel() for p in made.parameters()) == parameters
    assert [m.weight.numel() for m in made.modules() if isinstance(m, nn.Linear | nn.Conv2d)] == weights
    assert made(torch.zeros(2, *shape)).shape == (2, 10)


def test_an_image_too_small_for_lenet5_is_refused_with_what_fits():
    with pytest.raises(ValueError, match=r"at least 16x16, data.shape is \[1, 8, 8\]; take data=mnist"):
        LeNet5((1, 8, 8), 10)


def test_dropout_acts_while_training_alone():
    network = LeNet300100((1, 8, 8), 10, dropout=0.5)
    images = torch.ones(1, 1, 8, 8)
    assert not torch.equal(network(images), network(images))
    network.eval()
    assert torch.equal(network(images), network(images))


class Noted(Classifier):
    """Notes the optimizer step, counted from 1, in which each figure is logged."""

    def log(self, name, *args, **kwargs):
        self.__dict__.setdefault("logged", []).append((name, self.trainer.global_step + 1))
        super().log(name, *args, **kwargs)


class Rates(L.Callback):
    """Notes the learning rate behind each optimizer step."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.seen.append(trainer.optimizers[0].param_groups[0]["lr"])


def fitted(lr_schedule: str, lr_hold: float = 0.0) -> tuple[L.Trainer, Noted, Rates]:
    torch.manual_seed(0)
    # Two classes told apart by their sign: one step of gradient descent learns them.
    labels = torch.arange(40) % 2
    images = (labels * 2.0 - 1).reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous()
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    module = Noted(network, 2, lambda p: torch.optim.SGD(p, lr=0.8), lr_schedule, lr_hold, log_every_n_steps=3)
    rates = Rates()
    trainer = L.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        callbacks=[rates],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )
    train, held = (TensorBatches(images, labels, 10, seed) for seed in (0, None))
    trainer.fit(module, train, held)
    return trainer, module, rates


def test_the_cosine_takes_the_rate_to_zero_over_the_whole_training():
    rates = fitted("cosine")[2].seen
    expected = [0.4 * (1 + float(torch.cos(torch.tensor(torch.pi * step / 8)))) for step in range(1, 9)]
    assert rates == pytest.approx(expected, abs=1e-6)


def test_the_rate_is_held_before_the_cosine_takes_it_to_zero():
    rates = fitted("cosine", lr_hold=0.5)[2].seen
    expected = [0.4 * (1 + float(torch.cos(torch.tensor(torch.pi * step / 4)))) for step in range(5)]
    assert rates == pytest.approx([0.8] * 3 + expected, abs=1e-6)


def test_without_a_schedule_the_rate_stays():
    assert fitted("none")[2].seen == [0.8] * 8


def test_the_loss_is_logged_every_so_many_steps_and_the_accuracy_at_each_validation():
    trainer, module, _ = fitted("none")
    assert [step for name, step in module.logged if name == "train_loss"] == [3, 6]
    assert {"val_loss", "val_acc"} <= trainer.callback_metrics.keys()
    assert trainer.callback_metrics["val_acc"] == 1
    assert set(module.network.state_dict()) == {"1.weight", "1.bias"}


def test_the_accuracy_is_the_share_of_right_answers():
    trainer, module, _ = fitted("none")
    labels = torch.tensor([1, 1, 1, 0])
    images = torch.tensor([1.0, 1, -1, -1]).reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous()
    (tested,) = trainer.test(module, TensorBatches(images, labels, 3, seed=None), verbose=False)
    assert tested["test_acc"] == 0.75


def test_a_rate_held_for_the_whole_training_is_refused():
    with pytest.raises(ValueError, match=r"lr_hold=1.0 is not accepted; give a number in \[0, 1\)"):
        Classifier(nn.Identity(), 2, torch.optim.SGD, lr_schedule="cosine", lr_hold=1.0)


def test_an_unknown_schedule_of_the_rate_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="lr_schedule='step' is unknown; known: none, cosine"):
        Classifier(nn.Identity(), 2, torch.optim.SGD, lr_schedule="step")
