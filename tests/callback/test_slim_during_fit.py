"""A model that is slimmed at every update, or at the end."""

from __future__ import annotations

import copy

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_dynprune import DynamicPruning
from lightning_dynprune.coupling import CouplingError
from lightning_dynprune.engine import AccuracyGuard
from tests.callback.channels import Module, pruning, shapes
from tests.training import trainer


def test_slimmed_at_the_end_the_module_computes_the_same(tmp_path):
    slim, wide = Module(), Module()
    trainer([pruning(slim="end")], tmp_path).fit(slim)
    trainer([pruning()], tmp_path).fit(wide)
    x = torch.randn(5, 1, 6, 6)
    assert torch.allclose(slim.eval()(x), wide.eval()(x), atol=1e-5)
    assert sum(p.numel() for p in slim.parameters()) < 0.5 * sum(p.numel() for p in wide.parameters())
    assert all(bool(w.flatten(1).any(1).all()) for w in (slim.net[0].weight, slim.net[4].weight))


def test_a_run_that_is_killed_after_its_last_step_is_slimmed_when_it_is_resumed(tmp_path):
    unbroken, resumed = Module(), Module()
    saving = ModelCheckpoint(dirpath=tmp_path, filename="last", every_n_epochs=1)
    trainer([pruning(slim="end"), saving], tmp_path, max_epochs=2).fit(unbroken)
    trainer([pruning(slim="end")], tmp_path, max_epochs=2).fit(
        resumed, ckpt_path=saving.best_model_path, weights_only=True
    )
    assert shapes(resumed) == shapes(unbroken) != shapes(Module())
    assert all(torch.equal(value, unbroken.state_dict()[name]) for name, value in resumed.state_dict().items())


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


class Heads(L.LightningModule):
    """Attention whose number of heads is an attribute; it can be told to compute with a number of its own."""

    def __init__(self, fixed=0):
        super().__init__()
        torch.manual_seed(0)
        self.attention = nn.Module()
        self.attention.num_heads = 4
        for name in ("query", "key", "value", "out"):
            setattr(self.attention, name, nn.Linear(8, 8))
        self.fixed = fixed

    def forward(self, x):
        attention, heads = self.attention, self.fixed or self.attention.num_heads
        q, k, v = (
            layer(x).unflatten(-1, (heads, -1)).transpose(1, 2)
            for layer in (attention.query, attention.key, attention.value)
        )
        return attention.out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    def training_step(self, batch, _):
        (x,) = batch
        return (self(x) - x).square().mean()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 1e-2)

    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.randn(32, 3, 8, generator=torch.Generator().manual_seed(1))), 8)


def heads_pruning(**settings):
    return DynamicPruning(sparsity=0.5, pattern="head", strategy="magnitude", **settings)


def test_heads_slimmed_at_the_end_compute_the_same_as_with_masks(tmp_path):
    slim, wide = Heads(), Heads()
    trainer([heads_pruning(slim="end")], tmp_path).fit(slim)
    trainer([heads_pruning()], tmp_path).fit(wide)
    x = torch.randn(5, 3, 8)
    assert slim.attention.num_heads == 2
    assert slim.attention.query.weight.shape == (4, 8)
    assert torch.allclose(slim(x), wide(x), atol=1e-6)


def test_heads_that_cannot_be_removed_are_refused_at_the_first_batch_by_name(tmp_path):
    module = Heads(fixed=4)
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(CouplingError, match=r"slim='end' .*'attention' does not compute .* heads={'attention': 0}"):
        trainer([heads_pruning(slim="end")], tmp_path).fit(module)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    trainer([heads_pruning()], tmp_path).fit(module)  # masks need no fewer heads


def test_a_module_that_does_not_run_on_the_example_is_refused_and_the_setting_named(tmp_path):
    class Silent(Heads):
        forward = L.LightningModule.forward

        def training_step(self, batch, _):
            (x,) = batch
            return Heads.forward(self, x).square().mean()

    with pytest.raises(CouplingError, match=r"slim='end' compares the outputs .*example_input"):
        trainer([heads_pruning(slim="end")], tmp_path).fit(Silent())


def test_a_slim_model_that_would_compute_something_else_is_undone_and_said(tmp_path):
    class Changing(Heads):
        def training_step(self, batch, index):
            self.fixed = 4 if self.global_step > 10 else 0  # the model no longer runs with fewer heads
            return super().training_step(batch, index)

    module, callback = Changing(), heads_pruning(slim="end")
    run = trainer([callback], tmp_path)
    with pytest.warns(UserWarning, match=r"slim='end': the model was not slimmed: .* masks are as they were"):
        run.fit(module)
    wide = Changing()
    other = heads_pruning()
    again = trainer([other], tmp_path)
    again.fit(wide)
    assert shapes(module) == shapes(wide)
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), wide.parameters(), strict=True))
    assert module.attention.num_heads == 4
    assert all(torch.equal(callback.masks[name], mask) for name, mask in other.masks.items())
    for a, b in zip(module.parameters(), wide.parameters(), strict=True):
        slots = run.optimizers[0].state[a], again.optimizers[0].state[b]
        assert all(torch.equal(slots[0][name], slots[1][name]) for name in slots[1])
    run.optimizers[0].zero_grad()
    module(torch.randn(2, 3, 8)).sum().backward()
    run.optimizers[0].step()


def test_torchs_attention_is_slimmed_at_the_end_too(tmp_path):
    class Encoder(Heads):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.attention = nn.TransformerEncoderLayer(8, 4, 16, dropout=0.0, batch_first=True)

        def forward(self, x):
            return self.attention(x)

    slim, wide = Encoder(), Encoder()
    run = trainer([heads_pruning(slim="end", targets="*self_attn*")], tmp_path)
    run.fit(slim)
    trainer([heads_pruning(targets="*self_attn*")], tmp_path).fit(wide)
    x = torch.randn(5, 3, 8)
    assert slim.attention.self_attn.in_proj_weight.shape == (12, 8)
    assert torch.allclose(slim.eval()(x), wide.eval()(x), atol=1e-5)
    slim.train()(x).sum().backward()
    run.optimizers[0].step()
