"""The private attribute of LBFGS that the room writes is there and is what LBFGS reads."""

from __future__ import annotations

import torch
from torch import nn

from lightning_dynprune.masks.compat import reset_lbfgs


def test_lbfgs_steps_after_its_parameter_got_smaller():
    weight = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))
    optimizer = torch.optim.LBFGS([weight])

    def loss():
        optimizer.zero_grad()
        squared = weight.square().sum()
        squared.backward()
        return squared

    optimizer.step(loss)
    assert optimizer._numel_cache == 3
    weight.grad, weight.data = None, torch.tensor([1.0, 2.0])
    reset_lbfgs(optimizer)
    optimizer.step(loss)
    assert optimizer._numel_cache == 2
