"""Patterns in a Lightning Trainer: a resumed run, and the function that the pruned network computes."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from lightning_dynprune import DynamicPruning
from tests.callback.channels import Module, pruning
from tests.training import trainer


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
