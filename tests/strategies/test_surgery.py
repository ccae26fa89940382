"""Surgery: ten steps of masks and latent weights, against a plain numpy account of both thresholds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from lightning_dynprune.engine import Pruner
from tests.strategies.literal import EACH_STEP, Layer

A, B, LR = 0.9, 1.1, 0.3
SHAPES = [(5, 6), (4, 5)]


class Traced:
    """A run with random gradients, and what numpy makes of the same ones."""

    def __init__(self, sparsity: float, threshold: dict) -> None:
        torch.manual_seed(3)
        self.net = nn.Sequential(nn.Linear(6, 5, bias=False), nn.Linear(5, 4, bias=False))
        self.sgd = torch.optim.SGD(self.net.parameters(), lr=LR)
        self.pruner = Pruner(
            self.net, self.sgd, sparsity=sparsity, strategy="surgery", threshold=threshold, schedule=EACH_STEP
        )
        self.w = [layer.weight.detach().double().numpy().copy() for layer in self.net]
        self.m = [np.ones(shape, bool) for shape in SHAPES]
        self.random = np.random.default_rng(5)
        self.flips = 0

    def step(self) -> None:
        for layer, w in zip(self.net, self.w, strict=True):
            gradient = self.random.standard_normal(w.shape).astype(np.float32)
            layer.weight.grad = torch.from_numpy(gradient)
            w -= LR * gradient
        self.sgd.step()
        self.pruner.tick()

    def compare(self, masks: list[np.ndarray]) -> None:
        self.flips += sum(int((new & ~old).sum()) for new, old in zip(masks, self.m, strict=True))
        self.m = masks
        for target, w, m in zip(self.pruner.targets, self.w, masks, strict=True):
            assert np.array_equal(self.pruner.masks.tensors[self.pruner.targets.index(target)].numpy(), m)
            np.testing.assert_allclose(target.parameter.detach().numpy(), np.where(m, w, 0), atol=1e-5)
            np.testing.assert_allclose(target.state["latent"].numpy(), np.where(m, 0, w), atol=1e-5)


def test_ten_steps_with_a_frozen_threshold():
    run = Traced(0.95, {"name": "hysteresis", "c": 0.2, "gamma": 0.0})
    frozen: list[float] = []
    for _ in range(10):
        run.step()
        sizes = [np.abs(w) for w in run.w]
        if not frozen:
            frozen = [max(s.mean() + 0.2 * s.std(), 0.0) for s in sizes]
        run.compare([np.where(m, s > A * t, s > B * t) for m, s, t in zip(run.m, sizes, frozen, strict=True)])
    assert run.flips > 10
    assert [float(t.memory["threshold"]) for t in run.pruner.targets] == pytest.approx(frozen)


def test_ten_steps_with_the_scheduled_quantile():
    run = Traced(0.6, {"name": "hysteresis"})
    for _ in range(10):
        run.step()
        heeded = [np.where(m, np.abs(w) / A, np.abs(w) / B) for m, w in zip(run.m, run.w, strict=True)]
        both = np.sort(np.concatenate([h.ravel() for h in heeded]))[::-1]
        run.compare([h >= both[50 - 30 - 1] for h in heeded])
        assert sum(int(m.sum()) for m in run.m) == 20
    assert run.flips > 10


def test_between_the_two_thresholds_a_connection_stays_what_it_is():
    layer = Layer(
        [1.0, 1.0, 1.0, 0.2],
        lr=1.0,
        sparsity=0.75,
        strategy="surgery",
        threshold={"name": "hysteresis", "c": 0.0, "gamma": 0.0},
        schedule=EACH_STEP,
    )
    layer.step()  # T is the mean, 0.8: a T = 0.72 and b T = 0.88
    assert layer.mask == [True, True, True, False]
    layer.step([0.25, 0.3, 0.0, -0.6])  # 0.75 stays alive, 0.7 is pruned, 0.8 does not return
    assert layer.mask == [True, False, True, False]
    layer.step([0.0, -0.15, 0.0, -0.1])  # 0.85 does not return, 0.9 does
    assert layer.mask == [True, False, True, True]
    assert layer.weight == pytest.approx([0.75, 0.0, 1.0, 0.9])
