"""The callback fits early exits when a fit ends, in one line; the module is evaluated, saved, loaded and stripped."""

from __future__ import annotations

import copy
import pickle

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, StochasticWeightAveraging
from torch import nn
from torch.multiprocessing import ProcessRaisedException
from torch.utils.data import DataLoader

from lightning_dynprune import DynamicPruning, InputAdaptivePruning
from tests.adaptive.networks import images
from tests.callback.per_input.runs import Module, adaptive
from tests.conformance.loop import same
from tests.training import trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec"),
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval"),
]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A module that was trained with the callback alone, the callback, the Trainer and its folder."""
    folder = tmp_path_factory.mktemp("fitted")
    module, callback = Module(), adaptive()
    saver = ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1, every_n_epochs=1)
    run = trainer([callback, saver], folder, max_epochs=2)
    run.fit(module)
    run.save_checkpoint(folder / "end.ckpt")
    return module, callback, run, folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The same training without the callback."""
    module = Module()
    trainer([], tmp_path_factory.mktemp("plain"), max_epochs=2).fit(module)
    return module


def test_the_training_is_that_without_the_callback_and_the_module_is_added(fitted, plain):
    state = fitted[0].state_dict()
    assert same({name: value for name, value in state.items() if "adaptive" not in name}, dict(plain.state_dict()))
    assert state["adaptive.thresholds"].isfinite().any()
    assert "not fitted yet" in repr(adaptive())
    assert "of the multiply-adds" in repr(fitted[1])


def test_strip_leaves_the_plain_model_to_the_bit(fitted, plain):
    module, callback, *_ = fitted
    twin = copy.deepcopy(module)
    assert callback.strip(twin) is twin
    assert same(dict(twin.state_dict()), dict(plain.state_dict()))
    x = images(5)[0]
    assert torch.equal(twin.eval()(x), plain.eval()(x))


@pytest.mark.parametrize("share", [0.4, 0.7])
def test_a_budget_is_met_on_the_validation_data(fitted, share):
    module, callback, run, _ = fitted
    assert callback.budget(share) is callback
    (logged,) = run.validate(module, verbose=False)
    assert logged["dynprune/adaptive/compute_mean"] == pytest.approx(share, rel=0.02)


def test_a_test_logs_what_exits_give_and_agrees_with_the_network_that_leaves_early(fitted):
    module, callback, run, _ = fitted
    callback.budget(0.6)
    (logged,) = run.test(module, verbose=False)
    names = {name.removeprefix("dynprune/adaptive/"): value for name, value in logged.items()}
    x, labels = images(128, seed=2)
    module.eval()
    scores = callback.adapted(x)
    exits = callback.adapted.runner().exits
    assert names["accuracy"] == pytest.approx((scores.argmax(1) == labels).double().mean().item())
    assert names["dense_accuracy"] == pytest.approx(logged["test_acc"])
    for number, place in enumerate(("net.stem", "net.right", "end")):
        assert names[f"share/{place}"] == pytest.approx((exits == number).double().mean().item())
    costs = torch.tensor(callback.adapted.module.costs, dtype=torch.float64)[exits]
    assert names["compute_mean"] == pytest.approx(costs.mean().item())
    assert names["compute_p95"] == pytest.approx(costs.quantile(0.95).item())
    assert {"compute_p5", "rank_correlation", "accuracy_easy", "accuracy_hard"} <= names.keys()
    assert callback.evaluation.accuracy == pytest.approx(names["accuracy"])


def test_a_deployed_copy_is_measured_and_the_callback_and_its_copies_are_pickled(fitted):
    callback = fitted[1]
    deployed = callback.deploy(batches=(1,), seconds=0.01)
    assert "p95" in str(deployed)
    assert deployed(images(3)[0]).shape == (3, 4)
    assert not any("adaptive" in name for name in deployed.dense.state_dict())
    twin = pickle.loads(pickle.dumps(callback))
    with pytest.raises(ValueError, match="not fitted yet"):
        twin.budget(0.5)


def test_a_saved_checkpoint_is_tested_by_another_callback_and_module(fitted):
    module, callback, run, folder = fitted
    callback.budget(0.6)
    run.save_checkpoint(folder / "budget.ckpt")
    other, again = Module(), adaptive(budget=None)
    second = trainer([again], folder)
    (found,) = second.test(other, ckpt_path=folder / "budget.ckpt", verbose=False, weights_only=True)
    (expected,) = run.test(module, verbose=False)
    assert found == pytest.approx(expected, nan_ok=True)
    again.budget(0.4)
    (found,) = second.validate(other, verbose=False)
    assert found["dynprune/adaptive/compute_mean"] == pytest.approx(0.4, rel=0.02)


def test_a_checkpoint_from_before_the_end_of_the_fit_is_tested_dense_with_a_warning(fitted):
    module, callback, folder = copy.deepcopy(fitted[0]), adaptive(), fitted[3]
    second = trainer([callback], folder)
    with pytest.warns(UserWarning, match="was taken out and the network runs dense"):
        (logged,) = second.test(module, ckpt_path=folder / "epoch=0.ckpt", verbose=False, weights_only=True)
    assert logged.keys() == {"test_acc"}
    assert not hasattr(module, "adaptive")
    with pytest.raises(ValueError, match="not fitted yet"):
        callback.deploy()


def test_a_run_that_is_killed_while_heads_are_fitted_resumes_to_the_bit(fitted, tmp_path):
    unbroken, *_, folder = fitted
    resumed, callback = Module(), adaptive()
    torch.manual_seed(5)
    run = trainer([callback], tmp_path, max_epochs=2)
    run.fit(resumed, ckpt_path=folder / "epoch=1.ckpt", weights_only=True)
    fitted[1].budget(0.6)
    assert same(dict(resumed.state_dict()), dict(unbroken.state_dict()))


def test_a_run_that_is_killed_in_training_resumes_to_the_bit(fitted, tmp_path):
    unbroken, callback, _, folder = fitted
    resumed, again = Module(), adaptive()
    trainer([again], tmp_path, max_epochs=2).fit(resumed, ckpt_path=folder / "epoch=0.ckpt", weights_only=True)
    callback.budget(0.6)
    assert same(dict(resumed.state_dict()), dict(unbroken.state_dict()))


def test_a_fit_from_a_checkpoint_with_heads_fits_them_anew(fitted, tmp_path):
    module, callback = Module(), adaptive()
    run = trainer([callback], tmp_path, max_epochs=3)
    run.fit(module, ckpt_path=fitted[3] / "end.ckpt", weights_only=True)
    assert run.global_step == 24
    assert callback.adapted.model is module


def test_a_second_fit_trains_the_plain_model_and_fits_heads_again(fitted, tmp_path):
    module, callback = copy.deepcopy(fitted[0]), adaptive()
    names: list[str] = []

    class Look(L.Callback):
        def on_train_start(self, trainer, pl_module):
            names.extend(pl_module.state_dict())

    trainer([callback, Look()], tmp_path, max_epochs=1).fit(module)
    assert names
    assert not any("adaptive" in name for name in names)
    assert callback.adapted.module is module.adaptive


@pytest.mark.parametrize("order", [1, -1])
def test_heads_are_fitted_on_the_slim_network_whatever_the_order_of_callbacks(order, tmp_path):
    def callbacks(*others: L.Callback) -> list[L.Callback]:
        pruning = DynamicPruning(0.5, pattern="channel", slim="end", strategy="magnitude")
        return [*[pruning, adaptive()][::order], *others]

    module, chosen = Module(), callbacks(saver := ModelCheckpoint(tmp_path, filename="last", every_n_epochs=1))
    (callback,) = [each for each in chosen if isinstance(each, InputAdaptivePruning)]
    trainer(chosen, tmp_path, max_epochs=2).fit(module)
    killed_in_heads = Module()
    trainer(callbacks(), tmp_path, max_epochs=2).fit(
        killed_in_heads, ckpt_path=saver.best_model_path, weights_only=True
    )
    assert same(dict(killed_in_heads.state_dict()), dict(module.state_dict()))
    assert module.net.left.weight.shape[0] < 8
    assert callback.adapted.module.heads[0].hidden.weight.shape[1] == 9 * module.net.stem[0].weight.shape[0]
    module.eval()
    assert callback.adapted(images(7)[0]).shape == (7, 4)


def test_heads_are_fitted_on_averaged_weights(tmp_path):
    module, callback = Module(), adaptive()
    run = trainer([callback, StochasticWeightAveraging(1e-2, swa_epoch_start=1)], tmp_path, max_epochs=3)
    run.fit(module)
    module.eval()
    x, labels = images(128, seed=1)
    expected = (module(x).argmax(1) == labels).tolist()
    assert callback.adapted.module.held_out_correct[-1].tolist() == expected


def test_a_network_in_half_precision_leaves_early_too(tmp_path):
    module, callback = Module(), adaptive()
    run = trainer([callback], tmp_path, max_epochs=1, precision="bf16-true")
    run.fit(module)
    (logged,) = run.validate(module, verbose=False)
    assert 0 < logged["dynprune/adaptive/compute_mean"] <= 0.6
    module.eval()
    x = images(40, seed=3)[0].bfloat16()
    scores = callback.adapted(x)
    assert module.net.last.weight.dtype == torch.bfloat16
    assert torch.equal(scores.argmax(1), module.adaptive.outcome(module, x).scores.argmax(1))
    assert len(callback.adapted.runner().exits.unique()) > 1


def test_a_module_without_forward_names_its_network(tmp_path):
    class Bare(Module):
        forward = L.LightningModule.forward

        def training_step(self, batch, batch_idx):
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def validation_step(self, batch, batch_idx):
            pass

        test_step = validation_step

    with pytest.raises(ValueError, match=r"network='net'"):
        trainer([adaptive()], tmp_path, max_epochs=1).fit(Bare())
    with pytest.raises(ValueError, match=r"network='nett' names no module; net"):
        trainer([adaptive(network="nett")], tmp_path, max_epochs=1).fit(Bare())
    module, callback = Bare(), adaptive(network="net", after=["stem"])
    run = trainer([callback], tmp_path, max_epochs=1)
    run.fit(module)
    assert any(name.startswith("net.adaptive.heads") for name in module.state_dict())
    run.save_checkpoint(tmp_path / "end.ckpt")
    (logged,) = run.test(Bare(), ckpt_path=tmp_path / "end.ckpt", verbose=False, weights_only=True)
    assert logged["dynprune/adaptive/share/stem"] > 0
    callback.strip(module)
    assert not hasattr(module.net, "adaptive")


def test_batches_of_another_form_are_split_by_a_function(tmp_path):
    class Mapped(Module):
        def training_step(self, batch, batch_idx):
            return super().training_step((batch["x"], batch["y"]), batch_idx)

        def validation_step(self, batch, batch_idx):
            pass

    x, y = images(64)
    rows = [{"x": each, "y": label} for each, label in zip(x, y, strict=True)]
    data = DataLoader(rows, 16), DataLoader(rows, 16)
    with pytest.raises(TypeError, match=r"give pairs \(inputs, labels\)"):
        trainer([adaptive()], tmp_path, max_epochs=1).fit(Mapped(), *data)
    module, callback = Mapped(), adaptive(split_batch=lambda batch: (batch["x"], batch["y"]))
    run = trainer([callback], tmp_path, max_epochs=1)
    run.fit(module, *data)
    (logged,) = run.validate(module, data[1], verbose=False)
    assert 0 < logged["dynprune/adaptive/compute_mean"] <= 0.6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"after": ["net.stemm"]}, "after='net.stemm' matches no module"),
        ({"after": ["net.stem"], "budget": 1e-4}, "budget=0.0001 is out of reach"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_the_first_step(settings, message, tmp_path):
    run = trainer([adaptive(**settings)], tmp_path, max_epochs=1)
    with pytest.raises(ValueError, match=message):
        run.fit(Module())
    assert run.global_step == 0


def test_what_does_not_go_with_the_trainer_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match="chooses its thresholds from validation data"):
        trainer([adaptive()], tmp_path, limit_val_batches=0).fit(Module())
    with pytest.raises(ValueError, match="two InputAdaptivePruning"):
        trainer([adaptive(), adaptive(name="b")], tmp_path).fit(Module())
    own = Module()
    own.adaptive = nn.Linear(1, 1)
    with pytest.raises(ValueError, match="of the model's own"):
        trainer([adaptive()], tmp_path).fit(own)
    with pytest.raises(ProcessRaisedException, match=r"use strategy='ddp', or call"):
        trainer([adaptive()], tmp_path, strategy="ddp_fork", devices=1).fit(Module())


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"method": "early_exits"}, ValueError, "early_exits"),
        ({"method": {"name": "early_exit"}, "after": ["a"]}, TypeError, "after: settings go with a method's name"),
        ({"network": 3}, TypeError, "network=3"),
        ({"split_batch": "x"}, TypeError, "split_batch='x'"),
        ({"budget": 1.5}, ValueError, "budget=1.5"),
    ],
)
def test_settings_are_checked_at_once(given, error, message):
    with pytest.raises(error, match=message):
        InputAdaptivePruning(**given)
