"""A small network and a plain PyTorch loop to hold parts to the promises in."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lightning_dynprune.engine import Pruner

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


class Attending(nn.Module):
    """Attention of four heads over the rows of an image, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 4
        self.qkv, self.out = nn.Linear(6, 48), nn.Linear(16, 6)
        self.last = nn.Linear(36, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, 1, 6, 6) to (batch, 5)."""
        q, k, v = self.qkv(x.flatten(1, 2)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.last(self.out(attended.transpose(1, 2).flatten(2)).flatten(1))


def attending() -> nn.Module:
    """Return a network of attention, always with the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Attending()


def network_for(settings: dict[str, Any]) -> nn.Module:
    """Return the network that has units of the settings' pattern."""
    return attending() if settings.get("pattern", {}).get("name") == "head" else network()


def batch(step: int) -> tuple[Tensor, Tensor]:
    """Return the batch of a step."""
    generator = torch.Generator().manual_seed(1000 + step)
    x = torch.randn(16, 1, 6, 6, generator=generator)
    return x, x.flatten(1)[:, :5].argmax(1)


def adam(net: nn.Module) -> torch.optim.Optimizer:
    """Return an optimizer whose momentum and decay would bring weights back."""
    return torch.optim.Adam(net.parameters(), lr=1e-2, weight_decay=1e-2, fused=True)


class Run:
    """A training that can be left at any step and gone on with in another object."""

    def __init__(self, settings: dict[str, Any], sparsity: float | None = None) -> None:
        pattern = settings.get("pattern", {}).get("name")
        # n_m decides by itself, and four heads go down to one at most.
        if sparsity is None and pattern != "n_m":
            sparsity = 0.45 if pattern == "head" else 0.8
        self.net = network_for(settings)
        self.optimizer = adam(self.net)
        self.pruner = Pruner(
            self.net,
            self.optimizer,
            sparsity=sparsity,
            total_steps=STEPS,
            steps_per_epoch=STEPS_PER_EPOCH,
            example_input=batch(0)[0] if pattern == "channel" else None,
            **settings,
        )
        self.done = 0

    def step(self) -> list[Any]:
        """Train one step; return the updates it brought."""
        x, y = batch(self.done)
        updates_before = self.pruner.updates
        ending_epoch = (self.done + 1) % STEPS_PER_EPOCH == 0
        if self.pruner.needs_layer_inputs and self.pruner.updates_next(ending_epoch):
            self.pruner.start_capture()
        self.optimizer.zero_grad()
        nn.functional.cross_entropy(self.net(x), y).backward()
        self.pruner.stop_capture()
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
