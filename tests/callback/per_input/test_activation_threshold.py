"""A network trains with the ReLUs that replace its GELUs, gets thresholds at the end, and a killed run resumes."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from lightning_dynprune import DynamicPruning, InputAdaptivePruning
from tests.callback.per_input.runs import Module
from tests.conformance.loop import same
from tests.training import trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec"),
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval"),
]


def module() -> Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Module(nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.GELU(), nn.Linear(48, 4)))


def callbacks() -> list[object]:
    pruning = DynamicPruning(0.5, strategy="magnitude")
    return [pruning, InputAdaptivePruning("activation_threshold", swap="relu", density=0.4)]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder, own, parts = tmp_path_factory.mktemp("relu"), module(), callbacks()
    run = trainer([*parts, ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1)], folder, max_epochs=2)
    run.fit(own)
    return own, parts, run, folder


def test_the_density_of_each_layer_is_logged_and_strip_undoes_the_swap(unbroken):
    own, (pruning, adaptive), run, _ = unbroken
    assert isinstance(own.net[2], nn.ReLU)
    (logged,) = run.validate(own, verbose=False)
    densities = [logged[f"dynprune/adaptive/density/net.{layer}"] for layer in (1, 3)]
    assert logged["dynprune/adaptive/compute_mean"] == pytest.approx(0.4, rel=0.02)
    assert all(0 < density < 1 for density in densities)
    assert logged["dynprune/adaptive/accuracy"] > 0.4
    assert pruning.sparsity == pytest.approx(0.5, abs=1e-2)
    assert "2 layers with thresholds" in repr(adaptive)
    twin = module()
    assert set(adaptive.strip(own).state_dict()) == set(twin.state_dict())
    assert isinstance(own.net[2], nn.GELU)


def test_a_killed_run_resumes_to_the_bit(unbroken, tmp_path):
    first, (_, adaptive), _, folder = unbroken
    resumed, parts = module(), callbacks()
    with torch.no_grad():
        for parameter in resumed.parameters():
            parameter.add_(1.0)
    trainer(parts, tmp_path, max_epochs=2).fit(resumed, ckpt_path=folder / "epoch=0.ckpt", weights_only=True)
    assert isinstance(resumed.net[2], nn.ReLU)
    thresholds = parts[1].adapted.module
    assert parts[1].strip(resumed) is resumed
    assert same(dict(resumed.state_dict()), dict(adaptive.strip(first).state_dict()))
    assert thresholds.density == pytest.approx(0.4, rel=0.02)
