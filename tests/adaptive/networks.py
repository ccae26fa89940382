"""Small networks whose exits are easy to follow, their inputs and labels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lightning_dynprune.adaptive import Adapted, adapt


def images(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return images of 8 x 8 with a bright quarter, and its number; a share of them is faint and so hard."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (count,), generator=generator)
    x = 0.5 * torch.randn(count, 1, 8, 8, generator=generator)
    strength = torch.where(torch.rand(count, generator=generator) < 0.7, 2.0, 0.25)
    for number, label in enumerate(labels.tolist()):
        row, column = divmod(label, 2)
        x[number, 0, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += strength[number]
    return x, labels


class Skipping(nn.Module):
    """Two convolutions around a skip connection, so that two values cross a cut after the first."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.left, self.right = nn.Conv2d(4, 8, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)
        self.last = nn.Conv2d(4, 16, 3, padding=1)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = x + self.right(torch.relu(self.left(x)))
        return self.head(torch.relu(self.last(y)).mean((2, 3)))


class Untraceable(Skipping):
    """Branches on its data, so that torch.fx cannot trace it."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(-x if bool((x > 1e9).all()) else x)


class Reshaping(nn.Module):
    """Reads the number of inputs before a cut and uses it behind."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 2, 3), nn.Linear(72, 4)

    def forward(self, x: Tensor) -> Tensor:
        count = x.size(0)
        return self.last(torch.relu(self.first(x)).reshape(count, -1))


class Tokens(nn.Module):
    """A causal model of tokens: predicts, at each position, the token before."""

    def __init__(self, classes: int = 5, width: int = 16) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(classes, width), nn.Embedding(8, width)
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, 64)
        self.head = nn.Linear(64, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        x = x + torch.relu(self.first(x))
        return self.head(torch.relu(self.second(x)))


def trained(network: nn.Module, steps: int = 60) -> nn.Module:
    """Return a network trained for a moment on the images."""
    x, labels = images(256)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x), labels).backward()
        optimizer.step()
    return network.eval()


def adapted(network: nn.Module, **settings: object) -> Adapted:
    """Return a network with early exits fitted on the images."""
    chosen = {"after": ["stem", "right"], "hidden": 8, "epochs": 10, "batch_size": 64, "budget": 0.6, **settings}
    return adapt(network, "early_exit", [images(256)], [images(100, seed=1)], **chosen)
