"""A layer with weights written out, stepped with gradients written out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from lightning_dynprune.engine import Pruner

EACH_STEP = {"name": "constant", "begin": 1, "end": 100, "every": 1}


class Layer:
    """One row of weights under SGD; with ``lr`` 0 they stay what they are."""

    def __init__(self, weight: Sequence[float], lr: float = 0.0, **settings: Any) -> None:
        self.net = nn.Linear(len(weight), 1, bias=False)
        self.net.weight.data = torch.tensor([list(weight)])
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=lr)
        self.pruner = Pruner(self.net, self.optimizer, **settings)

    def step(self, grad: Sequence[float] | None = None):
        """Step with a gradient (by default zeros) and return the update that followed."""
        values = [0.0] * self.net.weight.numel() if grad is None else list(grad)
        self.net.weight.grad = torch.tensor([values])
        self.optimizer.step()
        return self.pruner.tick()

    @property
    def weight(self) -> list[float]:
        return self.net.weight[0].tolist()

    @property
    def mask(self) -> list[bool]:
        return self.pruner.masks.tensors[0][0].tolist()

    def state(self, key: str) -> list[float]:
        return self.pruner.targets[0].state[key][0].tolist()
