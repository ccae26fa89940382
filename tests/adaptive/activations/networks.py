"""A small network of linear layers, its inputs and labels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lightning_dynprune.adaptive import Adapted, adapt

CLASSES = 4


def points(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return points of 16 numbers, half of them zero, and their quadrant."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 16, generator=generator)
    x[:, 8:] *= torch.rand(count, 8, generator=generator) < 0.2
    return x, (x[:, 0] > 0).long() + 2 * (x[:, 1] > 0).long()


def trained(activation: type[nn.Module] = nn.ReLU, steps: int = 60) -> nn.Sequential:
    """Return an MLP trained for a moment on the points."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(16, 64), activation(), nn.Linear(64, 48), activation(), nn.Linear(48, CLASSES))
        x, labels = points(256)
        optimizer = torch.optim.Adam(net.parameters(), 1e-2)
        for _ in range(steps):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x), labels).backward()
            optimizer.step()
    return net.eval()


def thresholded(net: nn.Module, **settings: object) -> Adapted:
    """Return a network with activation thresholds from the points."""
    return adapt(net, "activation_threshold", [points(256)], [points(200, seed=1)], **settings)
