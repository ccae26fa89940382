"""Two processes that each calibrate on a part of the data choose the thresholds that one chooses on all of it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from lightning_dynprune.adaptive import adapt
from lightning_dynprune.distributed import Ranks
from tests.adaptive.activations.networks import points, trained
from tests.processes.group import together


def calibrated(rank: int, ranks: int) -> dict[str, Tensor]:
    x, labels = points(200, seed=1)
    part = slice(rank * len(x) // ranks, (rank + 1) * len(x) // ranks)
    data = [(x[part], labels[part])]
    net = trained(steps=20)
    module = adapt(net, "activation_threshold", data, data, ranks=Ranks() if ranks > 1 else None).module
    return {name: getattr(module, name) for name in ("thresholds", "natural", "quantiles", "errors", "measured")}


def test_thresholds_are_those_of_all_data_on_every_process(tmp_path: Path) -> None:
    expected = calibrated(0, 1)
    for found in together(2, calibrated, tmp_path, 2):
        for name, value in expected.items():
            assert torch.allclose(found[name], value, rtol=1e-5, atol=1e-6), name
