"""Every registered method is fitted by the callback, logged, saved, loaded into a new module and stripped."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from lightning_dynprune import InputAdaptivePruning
from lightning_dynprune.adaptive import METHODS
from tests.adaptive.networks import Skipping, images
from tests.callback.per_input.runs import Module
from tests.conformance.loop import same
from tests.training import trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec"),
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval"),
]
SETTINGS: dict[str, dict[str, Any]] = {
    "activation_threshold": {"density": 0.5},
    "channel_gate": {},
    "early_exit": {"after": ["stem"], "hidden": 8, "epochs": 2},
    "prefix_width": {"widths": [0.5], "epochs": 1},
}


def network(method: str) -> nn.Module:
    torch.manual_seed(0)
    if method != "activation_threshold":
        return Skipping()
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))


@pytest.mark.parametrize("method", METHODS.names())
def test_a_method_is_fitted_logged_saved_and_taken_out(method, tmp_path):
    module = Module(network(method))
    callback = InputAdaptivePruning(method, network="net", **SETTINGS[method])
    run = trainer([callback], tmp_path, max_epochs=1)
    run.fit(module)
    run.save_checkpoint(tmp_path / "end.ckpt")
    assert callback.adapted.module.summary in repr(callback)
    (found,) = run.test(module, verbose=False)
    loaded, other = Module(network(method)), InputAdaptivePruning(method, network="net", **SETTINGS[method])
    (again,) = trainer([other], tmp_path).test(
        loaded, ckpt_path=tmp_path / "end.ckpt", verbose=False, weights_only=True
    )
    assert again == pytest.approx(found, nan_ok=True)
    assert 0 < found["dynprune/adaptive/compute_p5"] <= found["dynprune/adaptive/compute_p95"]
    plain = Module(network(method))
    trainer([], tmp_path, max_epochs=1).fit(plain)
    for stripped in (callback.strip(module), other.strip(loaded.net)):
        assert not any("adaptive" in name for name in stripped.state_dict())
    assert same(dict(module.state_dict()), dict(plain.state_dict()))
    x = images(5)[0]
    assert torch.equal(module.eval()(x), plain.eval()(x))
