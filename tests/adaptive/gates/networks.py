"""Networks whose gated channels are easy to follow."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Branching(nn.Module):
    """A chain of two gated convolutions, a pooling between them, and one behind an addition."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.pool = nn.MaxPool2d(2)
        self.second, self.second_norm = nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.third = nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.pool(torch.relu(self.norm(self.first(x))))
        z = torch.relu(self.second_norm(self.second(y)))
        z = torch.relu(self.third(z + z.mean((2, 3), keepdim=True)))
        return self.head(z.mean((2, 3)))
