"""A small network and a plain PyTorch loop to hold parts to the promises in."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lightning_dynprune import Pruner

STEPS = 20
STEPS_PER_EPOCH = 5


def network() -> nn.Module:
    """Return a convolution and two linear layers, always with the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64, 24),
            nn.BatchNorm1d(24),
            nn.ReLU(),
            nn.Linear(24, 5),
        )


def batch(step: int) -> tuple[Tensor, Tensor]:
    """Return the batch of a step."""
    generator = torch.Generator().manual_seed(1000 + step)
    x = torch.randn(16, 1, 6, 6, generator=generator)
    return x, x.flatten(1)[:, :5].argmax(1)


def adam(net: nn.Module) -> torch.optim.Optimizer:
    """Return an optimizer whose momentum and decay would bring weights back."""
    return torch.optim.Adam(net.parameters(), lr=1e-2, weight_decay=1e-2)


class Run:
    """A training that can be left at any step and gone on with in another object."""

    def __init__(self, settings: dict[str, Any], sparsity: float = 0.8) -> None:
        self.net = network()
        self.optimizer = adam(self.net)
        self.pruner = Pruner(
            self.net,
            self.optimizer,
            sparsity=sparsity,
            total_steps=STEPS,
            steps_per_epoch=STEPS_PER_EPOCH,
            **settings,
        )
        self.done = 0

    def step(self) -> list[Any]:
        """Train one step; return the updates it brought."""
        x, y = batch(self.done)
        updates_before = self.pruner.updates
        ending_epoch = (self.done + 1) % STEPS_PER_EPOCH == 0
        if self.pruner.attends and self.pruner.updates_next(ending_epoch):
            self.pruner.attend()
        self.optimizer.zero_grad()
        nn.functional.cross_entropy(self.net(x), y).backward()
        self.pruner.ignore()
        self.optimizer.step()
        started = self.pruner.last_update if self.pruner.updates > updates_before else None
        updates = [started, self.pruner.tick()]
        self.done += 1
        if self.done % STEPS_PER_EPOCH == 0:
            updates.append(self.pruner.end_epoch())
        return [update for update in updates if update is not None]

    def finish(self) -> list[Any]:
        """Train to the end; return all updates."""
        return [update for _ in range(self.done, STEPS) for update in self.step()]

    def state(self) -> dict[str, Any]:
        """Return everything a resumed run needs."""
        return {
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "pruner": self.pruner.state_dict(),
            "done": self.done,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.pruner.load_state_dict(state["pruner"])
        self.done = state["done"]


def same(a: Any, b: Any) -> bool:
    """Return whether two nested states are equal to the bit."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)
