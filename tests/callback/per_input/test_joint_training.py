"""Heads that train with the network: their loss is added to the step's, and a killed run resumes to the bit."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from lightning_dynprune import DynamicPruning
from tests.adaptive.networks import images
from tests.callback.per_input.runs import Module, adaptive
from tests.callback.runs import Gan, loader
from tests.conformance.loop import same
from tests.training import trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec"),
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval"),
]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("joint")
    module, callback = Module(), adaptive(fit="joint")
    pruning = DynamicPruning(0.5, strategy="magnitude")
    saver = ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1, every_n_epochs=1)
    run = trainer([pruning, callback, saver], folder, max_epochs=3)
    run.fit(module)
    run.save_checkpoint(folder / "end.ckpt")
    return module, callback, run, folder, pruning


def test_heads_and_network_learn_and_thresholds_are_chosen_at_the_end(unbroken):
    module, callback, run, _, pruning = unbroken
    (logged,) = run.validate(module, verbose=False)
    assert logged["dynprune/adaptive/compute_mean"] <= 0.6
    assert logged["dynprune/adaptive/accuracy"] > 0.7
    assert callback.adapted.module.chosen.compute == pytest.approx(0.6, rel=0.02)
    assert vars(module).get("training_step") is None
    assert not any("adaptive" in name for name in pruning.masks), "heads are no targets"
    assert pruning.sparsity == pytest.approx(0.5, abs=1e-2)


@pytest.mark.parametrize("epoch", [0, 2])
def test_a_killed_run_resumes_to_the_bit(unbroken, epoch, tmp_path):
    module, callback, first, folder, _ = unbroken
    resumed, again = Module(), adaptive(fit="joint")
    with torch.no_grad():
        for parameter in resumed.parameters():
            parameter.add_(1.0)
    run = trainer([DynamicPruning(0.5, strategy="magnitude"), again], tmp_path, max_epochs=3)
    run.fit(resumed, ckpt_path=folder / f"epoch={epoch}.ckpt", weights_only=True)
    assert same(dict(resumed.state_dict()), dict(module.state_dict()))
    assert same(run.optimizers[0].state_dict(), first.optimizers[0].state_dict())
    assert again.adapted.module.summary == callback.adapted.module.summary


def test_a_fit_goes_on_with_calibrated_heads(unbroken, tmp_path):
    module = Module()
    run = trainer([DynamicPruning(0.5, strategy="magnitude"), adaptive(fit="joint")], tmp_path, max_epochs=4)
    run.fit(module, ckpt_path=unbroken[3] / "end.ckpt", weights_only=True)
    assert run.global_step == 32
    assert module.adaptive.held_out.count == 128


def test_the_loss_of_a_step_is_that_of_the_network_plus_the_mean_of_the_heads(tmp_path):
    module, callback = Module(), adaptive(fit="joint")
    run = trainer([callback], tmp_path, max_epochs=1, limit_train_batches=1)
    found: list[torch.Tensor] = []
    expected: list[torch.Tensor] = []

    class Step(Module):
        def training_step(self, batch, batch_idx):
            x, labels = batch
            with torch.no_grad():
                features = self.net.stem(x)
                heads = self.adaptive.exit_heads
                each = [heads[0](features), heads[1](self.net.right(torch.relu(self.net.left(features))))]
                losses = [nn.functional.cross_entropy(scores, labels) for scores in each]
                expected.append(nn.functional.cross_entropy(self(x), labels) + sum(losses) / 2)
            return {"loss": super().training_step(batch, batch_idx)}

        def on_before_backward(self, loss):
            found.append(loss.detach())

    module = Step().eval()
    for each in module.modules():
        each.train = lambda *_: None  # batch norms of both forwards read the same statistics
    run.fit(module)
    assert torch.allclose(found[0], expected[0])


def test_heads_read_the_channels_that_are_left_after_slimming(tmp_path):
    module, callback = Module(), adaptive(fit="joint")
    pruning = DynamicPruning(0.5, pattern="channel", slim="end", strategy="magnitude")
    trainer([callback, pruning], tmp_path, max_epochs=2).fit(module)
    assert module.net.left.weight.shape[0] < 8
    module.eval()
    assert callback.adapted(images(7)[0]).shape == (7, 4)


def test_what_does_not_go_with_joint_training_is_refused_by_name(unbroken, tmp_path):
    by_hand = adaptive(fit="joint", network="a", after=["a"])
    with pytest.raises(ValueError, match="optimizes by hand"):
        trainer([by_hand], tmp_path).fit(Gan(), loader(), loader())
    bare = Module()
    bare.example_input_array = None
    with pytest.raises(ValueError, match="give example_input, or set"):
        trainer([adaptive(fit="joint")], tmp_path).fit(bare)
    slim = DynamicPruning(0.5, pattern="channel", slim="update")
    with pytest.raises(ValueError, match=r"does not go with DynamicPruning\(slim='update'\)"):
        trainer([slim, adaptive(fit="joint")], tmp_path).fit(Module())
    plain = trainer([], tmp_path, max_epochs=1)
    plain.fit(Module())
    plain.save_checkpoint(tmp_path / "plain.ckpt")
    with pytest.raises(ValueError, match="it was not trained with fit='joint'"):
        trainer([adaptive(fit="joint")], tmp_path).fit(Module(), ckpt_path=tmp_path / "plain.ckpt")
    other = adaptive(fit="joint", after=["net.stem"])
    with pytest.raises(ValueError, match="with other settings"):
        trainer([other], tmp_path).fit(Module(), ckpt_path=unbroken[3] / "end.ckpt")
