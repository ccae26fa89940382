"""The best checkpoint of a pruned run: of weights at the target sparsity, with figures that are theirs."""

from __future__ import annotations

import warnings

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_dynprune import DynamicPruning, PrunedCheckpoint
from tests.callback.runs import Net, loader, net
from tests.training import trainer

SCHEDULE = {"name": "linear", "begin": 8, "end": 32, "every": 8}  # 8 steps an epoch: the target is reached in epoch 3


class Falls(Net):
    """Its metric falls from validation to validation, as an accuracy does that pruning costs."""

    def forward(self, x):
        return self.net(x)

    def validation_step(self, batch, batch_idx):
        self.log("score", 100.0 - self.trainer.global_step / 8)

    test_step = validation_step


class Stops(L.Callback):
    """Ends the fit after two epochs."""

    def on_train_epoch_end(self, trainer, pl_module):
        trainer.should_stop = trainer.current_epoch == 1


def zeros_in(path) -> float:
    weights = torch.load(path, weights_only=True)["state_dict"]
    values = torch.cat([v.flatten() for name, v in weights.items() if name.endswith("weight")])
    return float((values == 0).float().mean())


def run(tmp_path, saver, epochs=6, schedule=SCHEDULE, resume=None, others=(), **settings):
    torch.manual_seed(0)
    ours = DynamicPruning(sparsity=0.9, strategy="magnitude", schedule=schedule)
    train, module = trainer([ours, saver, *others], tmp_path, max_epochs=epochs, **settings), Falls()
    train.fit(module, loader(), loader(16), ckpt_path=resume)
    return module, ours, train


def test_a_monitored_checkpoint_is_warned_of_while_the_schedule_runs(tmp_path):
    with pytest.warns(
        UserWarning,
        match=r"schedule ends \(after step 32\).*PrunedCheckpoint\(monitor='score', mode='max'\) in its place",
    ):
        run(tmp_path, ModelCheckpoint(tmp_path, "{step}", monitor="score", mode="max"))


@pytest.mark.parametrize(
    ("saver", "schedule"),
    [
        (lambda path: ModelCheckpoint(path, "{step}"), SCHEDULE),
        (lambda path: ModelCheckpoint(path, "{step}", monitor="score", every_n_epochs=4), SCHEDULE),
        (lambda path: ModelCheckpoint(path, "{step}", monitor="score"), {"name": "linear", "begin": 2, "end": 8}),
        (lambda path: ModelCheckpoint(path, "{step}", monitor="score", save_top_k=0), SCHEDULE),
        (lambda path: PrunedCheckpoint(path, "{step}", monitor="score"), SCHEDULE),
    ],
    ids=["no monitor", "first save at the end of the schedule", "schedule of one epoch", "saves nothing", "pruned"],
)
def test_a_checkpoint_that_saves_at_the_target_alone_is_not_warned_of(tmp_path, saver, schedule):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*may save before")
        run(tmp_path, saver(tmp_path), schedule=schedule)


def test_a_fit_that_resumes_after_the_schedule_is_not_warned_of(tmp_path):
    saver = ModelCheckpoint(tmp_path, "{epoch}", monitor="score", save_top_k=-1)
    with pytest.warns(UserWarning, match="may save before"):
        run(tmp_path, saver)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*may save before")
        run(tmp_path, ModelCheckpoint(tmp_path, monitor="score"), 8, resume=tmp_path / "epoch=4.ckpt")


@pytest.mark.parametrize("settings", [{}, {"every_n_train_steps": 4}, {"save_on_train_epoch_end": False}], ids=str)
def test_the_best_is_chosen_among_validations_at_the_target(tmp_path, settings):
    saver = PrunedCheckpoint(tmp_path, "{step}", monitor="score", mode="max", save_top_k=2, **settings)
    run(tmp_path, saver)
    assert len(saver.best_k_models) == 2
    assert float(saver.best_model_score) == 96.0  # after the fourth epoch; the least pruned had 99
    assert all(zeros_in(path) == pytest.approx(0.9, abs=1e-3) for path in saver.best_k_models)


def test_validations_within_the_epoch_are_chosen_likewise(tmp_path):
    saver = PrunedCheckpoint(tmp_path, "{step}", monitor="score", mode="max", save_top_k=-1)
    run(tmp_path, saver, val_check_interval=0.5)
    assert len(saver.best_k_models) == 5  # at steps 32, 36, 40, 44, 48
    assert all(zeros_in(path) == pytest.approx(0.9, abs=1e-3) for path in saver.best_k_models)


def test_a_resumed_run_ranks_with_those_saved_before(tmp_path):
    whole = PrunedCheckpoint(tmp_path / "a", "{step}", monitor="score", mode="max", save_top_k=2, save_last=True)
    run(tmp_path, whole, 4)
    resumed = PrunedCheckpoint(tmp_path / "a", "{step}", monitor="score", mode="max", save_top_k=2)
    run(tmp_path, resumed, 6, resume=whole.last_model_path)
    assert resumed.state_dict()["validated_at_target"] is True
    assert len(resumed.best_k_models) == 2
    assert whole.best_model_path in resumed.best_k_models


def test_that_nothing_was_saved_is_said(tmp_path):
    saver = PrunedCheckpoint(tmp_path, monitor="score")
    with pytest.warns(UserWarning, match="has saved nothing: no validation ran at the target"):
        run(tmp_path, saver, others=[Stops()])


def test_settings_that_cannot_work_are_refused(tmp_path):
    with pytest.raises(ValueError, match="monitor=None ranks nothing"):
        PrunedCheckpoint(tmp_path)
    with pytest.raises(ValueError, match="needs a DynamicPruning"):
        trainer([PrunedCheckpoint(tmp_path, monitor="score")], tmp_path).fit(Falls(), loader(), loader(16))


@pytest.mark.parametrize("use", ["test", "validate"])
def test_figures_are_of_the_weights_that_are_evaluated(tmp_path, use):
    saver = ModelCheckpoint(tmp_path, "{step}", monitor="score", mode="max")
    with pytest.warns(UserWarning, match="may save before"):
        module, ours, train = run(tmp_path, saver)
    at_end = ours.sparsity
    assert at_end == pytest.approx(0.9, abs=1e-3)
    getattr(train, use)(module, loader(16), verbose=False)
    assert ours.sparsity == at_end  # the weights that the fit ended with
    (logged,) = getattr(train, use)(module, loader(16), ckpt_path="best", verbose=False)
    assert ours.sparsity == pytest.approx(zeros_in(saver.best_model_path), abs=1e-6)
    assert ours.sparsity < 0.5
    assert set(ours.layer_sparsity) == {"net.0.weight", "net.3.weight"}
    assert max(ours.layer_sparsity.values()) < 0.5
    if use == "validate":
        assert logged["dynprune/val_sparsity"] == pytest.approx(ours.sparsity, abs=1e-6)
    assert ours.pruner.sparsity == at_end

    new = DynamicPruning(sparsity=0.9)  # a script that only tests
    getattr(trainer([new], tmp_path), use)(module, loader(16), ckpt_path=saver.best_model_path, verbose=False)
    assert new.sparsity == ours.sparsity

    train.fit_loop.max_epochs = 7
    train.fit(module, loader(), loader(16))
    assert ours.sparsity == pytest.approx(0.9, abs=1e-3)


def test_weights_loaded_by_hand_are_noticed(tmp_path):
    module, ours, train = run(tmp_path, PrunedCheckpoint(tmp_path, monitor="score"))
    module.load_state_dict(net().state_dict())
    train.predict(module, torch.utils.data.DataLoader(torch.randn(4, 20)), return_predictions=False)
    assert ours.sparsity == 0.0
