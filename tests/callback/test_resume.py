"""A fit that continues from a checkpoint or from an earlier fit."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_dynprune import DynamicPruning
from tests.callback.runs import loader, net, zeros
from tests.conformance import parts
from tests.conformance.loop import same
from tests.training import trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec"),
    pytest.mark.filterwarnings("ignore:.*is down to min_kept"),
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval"),
]


@pytest.mark.parametrize("strategy", parts.STRATEGIES)
@pytest.mark.parametrize("threshold", parts.THRESHOLDS)
@pytest.mark.filterwarnings("ignore:.*is short of the target")
def test_a_resumed_fit_is_the_unbroken_fit_to_the_bit(strategy, threshold, tmp_path):
    def settings() -> dict[str, Any]:
        return {
            "sparsity": 0.8,
            "strategy": parts.STRATEGIES[strategy],
            "threshold": parts.THRESHOLDS[threshold],
            "schedule": {"name": "cubic", "begin": 3, "end": 28, "every": 3},
        }

    unbroken, pruning = net(), DynamicPruning(**settings())
    saver = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1, every_n_epochs=1)
    first = trainer([pruning, saver], tmp_path)
    first.fit(unbroken, loader())
    resumed, again = net(seed=5), DynamicPruning(**settings())
    second = trainer([again], tmp_path)
    second.fit(resumed, loader(), ckpt_path=tmp_path / "epoch=1.ckpt", weights_only=True)
    assert again.pruner.clock.step == 32
    assert same(dict(resumed.state_dict()), dict(unbroken.state_dict()))
    assert same(again.state_dict(), pruning.state_dict())
    assert same(second.optimizers[0].state_dict(), first.optimizers[0].state_dict())


def test_a_checkpoint_loads_strictly_into_the_plain_model_where_this_package_is_not(tmp_path):
    model = net()
    run = trainer([DynamicPruning(sparsity=0.9)], tmp_path)
    run.fit(model, loader())
    run.save_checkpoint(tmp_path / "model.ckpt")
    script = tmp_path / "plain.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import sys
            sys.modules["lightning_dynprune"] = None  # any import of it raises
            import torch
            from torch import nn
            checkpoint = torch.load({str(tmp_path / "model.ckpt")!r}, weights_only=True)
            net = nn.Sequential(nn.Linear(20, 40), nn.ReLU(), nn.Dropout(0.0), nn.Linear(40, 5))
            weights = {{k.removeprefix("net."): v for k, v in checkpoint["state_dict"].items()}}
            print(net.load_state_dict(weights, strict=True), sum(int((p == 0).sum()) for p in net.parameters()))
            """
        )
    )
    out = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "<All keys matched successfully> 900"


def test_masks_travel_as_bits(tmp_path):
    run = trainer([DynamicPruning(sparsity=0.9)], tmp_path)
    run.fit(net(), loader())
    run.save_checkpoint(tmp_path / "model.ckpt")
    state = torch.load(tmp_path / "model.ckpt", weights_only=True)["callbacks"]["DynamicPruning"]
    assert {name: m.numel() for name, m in state["masks"].items()} == {"net.0.weight": 100, "net.3.weight": 25}


def test_a_second_fit_keeps_what_the_first_one_pruned(tmp_path):
    model, pruning = net(), DynamicPruning(sparsity=0.5)
    trainer([pruning], tmp_path).fit(model, loader())
    mask = {name: m.clone() for name, m in pruning.masks.items()}
    run = trainer([pruning], tmp_path)
    run.fit(model, loader())
    assert pruning.pruner.clock.step == 32
    assert same(pruning.masks, mask)
    run.fit_loop.max_epochs = 6
    run.fit(model, loader())
    assert pruning.pruner.clock.step == 48
    assert zeros(model) == 500


def test_a_checkpoint_of_other_targets_is_refused(tmp_path):
    run = trainer([DynamicPruning(sparsity=0.5, targets="net.0.*")], tmp_path)
    run.fit(net(), loader())
    run.save_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=r"made for other targets; net\.3\.weight is no target there"):
        trainer([DynamicPruning(sparsity=0.5)], tmp_path, max_epochs=6).fit(
            net(), loader(), ckpt_path=tmp_path / "a.ckpt"
        )
