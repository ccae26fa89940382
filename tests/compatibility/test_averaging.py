"""Averages of the weights, beside pruning."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, StochasticWeightAveraging, WeightAveraging
from torch import nn

from tests.compatibility.runs import SPARSITY, STRATEGIES, Module, fit, holds, pruning
from tests.training import trainer

AVERAGES = {
    "of every step": WeightAveraging,
    "exponential": lambda: EMAWeightAveraging(decay=0.9),
    "of epochs": lambda: EMAWeightAveraging(decay=0.5, update_every_n_steps=0, update_starting_at_epoch=0),
}


@pytest.mark.parametrize("average", AVERAGES.values(), ids=AVERAGES)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_averaged_weights_hold_the_zeros_and_resume_to_the_bit(strategy, average, tmp_path):
    holds(tmp_path, strategy, callbacks=lambda: [average()], callbacks_first=average is WeightAveraging)


class ByHand(L.Callback):
    """Averages by the formula, with what is pruned at the moment left out."""

    def __init__(self, pruned: Any, decay: float) -> None:
        self.pruned, self.decay = pruned, decay
        self.average: dict[str, torch.Tensor] = {}

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        for name, value in pl_module.named_parameters():
            average = self.average.get(name, value.detach().clone())
            average = self.decay * average + (1 - self.decay) * value.detach()
            mask = self.pruned.masks.get(name)
            self.average[name] = average if mask is None else average * mask


@pytest.mark.parametrize("callbacks_first", [False, True])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_trained_model_is_the_average_without_what_is_pruned(strategy, callbacks_first, tmp_path):
    module, ours = Module(), pruning(strategy)
    by_hand, ema = ByHand(ours, 0.9), EMAWeightAveraging(decay=0.9)
    order = [ema, ours, by_hand] if callbacks_first else [ours, ema, by_hand]
    trainer(order, tmp_path, limit_val_batches=0).fit(module)
    for name, value in module.named_parameters():
        torch.testing.assert_close(value, by_hand.average[name], msg=name)
    assert ours.sparsity == SPARSITY


class Swa(Module):
    """Without a norm SWA ends with training; with one an epoch follows in which only its statistics are taken."""

    def __init__(self, norm: bool) -> None:
        super().__init__()
        if not norm:
            self.net[1] = nn.Identity()


def swa() -> L.Callback:
    return StochasticWeightAveraging(swa_lrs=0.02, swa_epoch_start=0.5)


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_swa_holds_the_zeros_and_resumes_to_the_bit(strategy, norm, tmp_path):
    holds(
        tmp_path,
        strategy,
        lambda: Swa(norm),
        callbacks=lambda: [swa()],
        callbacks_first=norm,
        # In mid-epoch a resumed SWA has another learning rate, without pruning too, until the next epoch begins.
        save_at={"every_n_epochs": 2, "save_on_train_epoch_end": True},
    )


@pytest.mark.parametrize("schedule", [{"end": 1.0}, {"end": 1.0, "every": "1 epoch"}], ids=["steps", "epochs"])
@pytest.mark.parametrize("callbacks_first", [False, True])
def test_the_epoch_that_swa_adds_for_the_statistics_is_no_training(callbacks_first, schedule, tmp_path):
    settings = {"schedule": {"name": "cubic", **schedule}}
    _, ours, _ = fit(tmp_path, "taylor", callbacks=lambda: [swa()], callbacks_first=callbacks_first, settings=settings)
    assert ours.pruner.schedule.span.end == (4 if "every" in schedule else 24)
    assert ours.sparsity == SPARSITY


class BiasOfPruned(L.Callback):
    """Counts the hidden units whose weights are all zero in validation, and asserts that their biases are too."""

    seen = 0

    def on_validation_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        gone = (pl_module.net[0].weight == 0).all(1)
        self.seen = int(gone.sum())
        for name in ("net.0.bias", "net.1.weight", "net.1.bias"):
            assert not dict(pl_module.named_parameters())[name][gone].any(), name


def test_what_goes_with_a_channel_goes_from_the_average_too(tmp_path):
    watch = BiasOfPruned()
    settings = {"pattern": "channel", "targets": "net.*", "sparsity": 0.5}
    fit(tmp_path, "taylor", callbacks=lambda: [WeightAveraging(), watch], settings=settings)
    assert watch.seen > 4


@pytest.mark.parametrize("average", [swa, WeightAveraging])
def test_slimming_what_is_averaged_is_refused(average, tmp_path):
    run = trainer([pruning("taylor", pattern="channel", sparsity=0.5, slim="end"), average()], tmp_path)
    with pytest.raises(ValueError, match=r"slim='end' does not go with .*WeightAverag.* leave slim out"):
        run.fit(Module())
