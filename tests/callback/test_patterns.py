"""Patterns in a Lightning Trainer: where the example input comes from, and what a resumed run is."""

from __future__ import annotations

import copy

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_dynprune import DynamicPruning
from lightning_dynprune.engine import AccuracyGuard
from tests.training import trainer


class Module(L.LightningModule):
    def __init__(self, as_mapping=False):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Conv2d(1, 8, 3),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(128, 16),
            nn.ReLU(),
            nn.Linear(16, 3),
        )
        self.as_mapping = as_mapping

    def forward(self, image):
        return self.net(image)

    def training_step(self, batch, _):
        image, label = (batch["image"], batch["label"]) if self.as_mapping else batch
        return nn.functional.cross_entropy(self(image), label)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 1e-2)

    def train_dataloader(self):
        generator = torch.Generator().manual_seed(1)
        images = torch.randn(64, 1, 6, 6, generator=generator)
        return DataLoader(TensorDataset(images, images.flatten(1)[:, :3].argmax(1)), 8)


def zero_channels(module: Module) -> list[int]:
    return [int((w.flatten(1) == 0).all(1).sum()) for w in (module.net[0].weight, module.net[4].weight)]


def pruning(**settings) -> DynamicPruning:
    return DynamicPruning(sparsity=0.6, pattern="channel", **settings)


def test_the_first_batch_is_the_example_where_none_is_given(tmp_path):
    module, callback = Module(), pruning()
    trainer([callback], tmp_path).fit(module)
    assert min(zero_channels(module)) >= 0
    assert sum(zero_channels(module)) > 4
    assert callback.sparsity == pytest.approx(0.6, abs=0.03)


def test_an_example_input_array_is_taken_before_the_first_batch(tmp_path):
    module = Module()
    module.example_input_array = torch.zeros(2, 1, 6, 6)
    callback = pruning(schedule={"name": "one_shot", "begin": 0})
    trainer([callback], tmp_path, max_epochs=1).fit(module)
    assert callback.pruner.journal.updates[0].step == 0


@pytest.mark.parametrize("strategy", ["magnitude", "taylor"])
def test_the_update_before_the_first_step_waits_for_the_first_batch_where_that_is_the_example(strategy, tmp_path):
    module, callback = Module(), pruning(strategy=strategy, schedule={"name": "one_shot", "begin": 0})
    trainer([callback], tmp_path, max_epochs=1).fit(module)
    assert [update.step for update in callback.pruner.journal.updates] == [0]
    pruner = callback.pruner
    assert callback.sparsity == pytest.approx(0.6, abs=pruner.unit / 2 / pruner.masks.total)


def test_a_batch_that_is_a_mapping_needs_an_example_and_says_so(tmp_path):
    class Mapped(Module):
        def train_dataloader(self):
            data = [{"image": torch.randn(1, 6, 6), "label": 0} for _ in range(16)]
            return DataLoader(data, 8)

    with pytest.raises(ValueError, match="example_input"):
        trainer([pruning()], tmp_path, max_epochs=1).fit(Mapped(as_mapping=True))
    callback = pruning(example_input=torch.randn(2, 1, 6, 6))
    trainer([callback], tmp_path, max_epochs=2).fit(Mapped(as_mapping=True))
    assert callback.sparsity == pytest.approx(0.6, abs=0.03)


@pytest.mark.parametrize(
    "settings", [{"sparsity": 0.6, "pattern": "channel"}, {"pattern": {"name": "n_m", "pad": True}}]
)
def test_a_resumed_run_ends_as_the_unbroken_one(tmp_path, settings):
    unbroken = Module()
    saving = ModelCheckpoint(dirpath=tmp_path, filename="half", every_n_train_steps=24, save_top_k=1)
    trainer([DynamicPruning(**settings), saving], tmp_path).fit(unbroken)
    resumed = Module()
    trainer([DynamicPruning(**settings)], tmp_path).fit(resumed, ckpt_path=tmp_path / "half.ckpt")
    for ours, theirs in zip(resumed.parameters(), unbroken.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_checkpoint_of_another_pattern_is_refused(tmp_path):
    saving = ModelCheckpoint(dirpath=tmp_path, filename="half", save_last=True)
    trainer([DynamicPruning(sparsity=0.6), saving], tmp_path, max_epochs=2).fit(Module())
    with pytest.raises(ValueError, match="pruned by pattern element, not channel"):
        trainer([pruning()], tmp_path).fit(Module(), ckpt_path=tmp_path / "last.ckpt")


def test_the_pruned_network_computes_what_it_does_without_its_zero_channels(tmp_path):
    module = Module()
    trainer([pruning()], tmp_path).fit(module)
    module.eval()
    x = torch.randn(5, 1, 6, 6)
    keep = (module.net[0].weight.flatten(1) != 0).any(1)
    features = nn.functional.conv2d(x, module.net[0].weight[keep], module.net[0].bias[keep])
    norm = module.net[1]
    features = nn.functional.batch_norm(
        features, norm.running_mean[keep], norm.running_var[keep], norm.weight[keep], norm.bias[keep]
    ).relu()
    columns = module.net[4].weight.view(16, 8, 16)[:, keep].flatten(1)
    hidden = nn.functional.linear(features.flatten(1), columns, module.net[4].bias).relu()
    assert torch.allclose(module.net[6](hidden), module(x), atol=1e-5)
    assert not module.net[1].running_mean[~keep].any()
    assert not module.net[1].bias[~keep].any()


def shapes(module: nn.Module) -> list[tuple[int, ...]]:
    return [tuple(parameter.shape) for parameter in module.parameters()]


def test_slimmed_at_the_end_the_module_computes_the_same(tmp_path):
    slim, wide = Module(), Module()
    trainer([pruning(slim="end")], tmp_path).fit(slim)
    trainer([pruning()], tmp_path).fit(wide)
    x = torch.randn(5, 1, 6, 6)
    assert torch.allclose(slim.eval()(x), wide.eval()(x), atol=1e-5)
    assert sum(p.numel() for p in slim.parameters()) < 0.5 * sum(p.numel() for p in wide.parameters())
    assert all(bool(w.flatten(1).any(1).all()) for w in (slim.net[0].weight, slim.net[4].weight))


@pytest.mark.parametrize("strategy", ["magnitude", "taylor"])
def test_slimmed_at_every_update_it_trains_as_it_would_with_masks(strategy, tmp_path):
    torch.set_default_dtype(torch.float64)
    try:
        slim, wide = Module(), Module()
        pruners = [pruning(strategy=strategy, slim="update"), pruning(strategy=strategy)]
        objects = [id(p) for p in slim.parameters()]
        for module, callback in zip((slim, wide), pruners, strict=True):
            trainer([callback], tmp_path, gradient_clip_val=0.5).fit(module)
        x = torch.randn(5, 1, 6, 6)
        assert torch.allclose(slim.eval()(x), wide.eval()(x), atol=1e-9)
    finally:
        torch.set_default_dtype(torch.float32)
    assert [id(p) for p in slim.parameters()] == objects
    assert [p.sparsity for p in pruners] == [pruners[1].sparsity] * 2
    assert pruners[0].layer_sparsity == pruners[1].layer_sparsity
    assert [u.sparsity for u in pruners[0].pruner.journal.updates] == [
        u.sparsity for u in pruners[1].pruner.journal.updates
    ]
    assert slim.net[0].out_channels == slim.net[1].num_features == slim.net[0].weight.shape[0]
    assert slim.net[0].out_channels < 8 if strategy == "magnitude" else slim.net[4].out_features < 16


def test_a_run_slimmed_at_updates_resumes_to_the_same_end(tmp_path):
    unbroken = Module()
    saving = ModelCheckpoint(dirpath=tmp_path, filename="half", every_n_train_steps=16, save_top_k=1, save_last=False)
    half = pruning(slim="update")
    trainer([half, saving], tmp_path).fit(unbroken)
    weights = torch.load(next(tmp_path.glob("half*.ckpt")), weights_only=True)["state_dict"]
    assert shapes(unbroken) != shapes(Module())
    resumed, callback = Module(), pruning(slim="update")
    trainer([callback], tmp_path).fit(resumed, ckpt_path=next(tmp_path.glob("half*.ckpt")))
    assert weights["net.0.weight"].shape[0] <= 8
    assert shapes(resumed) == shapes(unbroken)
    assert all(torch.equal(a, b) for a, b in zip(resumed.parameters(), unbroken.parameters(), strict=True))
    assert callback.sparsity == half.sparsity
    assert not resumed._load_state_dict_pre_hooks


def test_what_is_logged_counts_what_was_slimmed_away(tmp_path):
    module, callback = Module(), pruning(slim="update")
    run = trainer([callback], tmp_path, log_every_n_steps=1)
    run.fit(module)
    total = sum(p.numel() for p in Module().parameters())
    left = sum(int(p.count_nonzero()) for p in module.parameters())
    assert float(run.callback_metrics["dynprune/sparsity"]) == pytest.approx(callback.sparsity)
    assert float(run.callback_metrics["dynprune/compression"]) == pytest.approx(total / left)
    assert float(run.callback_metrics["dynprune/layer/net.0.weight"]) == pytest.approx(
        1 - module.net[0].weight.numel() / 72
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"slim": "now"}, "slim='now' is unknown; known: None, 'end', 'update'"),
        ({"slim": "end", "pattern": "element"}, "slim='end' goes with pattern channel or head, not element"),
        ({"slim": "update", "pattern": "head"}, "slim='update' goes with pattern channel, not head"),
        ({"slim": "end", "rewind": 3}, "does not go with rewind"),
        ({"slim": "update", "guard": AccuracyGuard("val_acc")}, "does not go with a guard"),
    ],
)
def test_what_does_not_go_with_slimming_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        DynamicPruning(**{"sparsity": 0.6, "pattern": "channel", **settings})


def test_one_callback_serves_another_module_and_its_resume_too(tmp_path):
    callback = pruning(slim="update")
    trainer([callback], tmp_path / "a").fit(Module())
    saving = ModelCheckpoint(dirpath=tmp_path, filename="late", every_n_train_steps=24, save_top_k=1)
    unbroken = Module()
    trainer([pruning(slim="update"), saving], tmp_path / "b").fit(unbroken)
    resumed = Module()
    fresh = copy.deepcopy(shapes(resumed))
    trainer([callback], tmp_path / "c").fit(resumed, ckpt_path=tmp_path / "late.ckpt")
    assert shapes(resumed) == shapes(unbroken) != fresh
    assert all(torch.equal(a, b) for a, b in zip(resumed.parameters(), unbroken.parameters(), strict=True))


def test_a_fit_that_fails_early_leaves_no_hook(tmp_path):
    class Broken(Module):
        def configure_optimizers(self):
            raise RuntimeError("broken")

    module = Broken()
    with pytest.raises(RuntimeError, match="broken"):
        trainer([pruning(slim="update")], tmp_path).fit(module)
    assert not module._load_state_dict_pre_hooks
