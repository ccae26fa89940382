"""A small network that several processes train, each on its share of one global batch."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lightning_dynprune.engine import Pruner

STEPS, STEPS_PER_EPOCH = 12, 4
GLOBAL_BATCH, LAST_BATCH = 24, 12  # the last batch of an epoch is smaller


def network() -> nn.Sequential:
    """Return three linear layers, always with the same weights; 7 rows do not divide by 2 or 3.

    They are of float64: the order in which processes add up gradients changes their last bits, and in float32 that is
    enough to exchange two connections that score almost alike.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 7), nn.Tanh(), nn.Linear(7, 4)
        return nn.Sequential(*layers).double()


def batch(step: int, rank: int = 0, size: int = 1) -> tuple[Tensor, Tensor]:
    """Return the share of a process of the global batch of a step."""
    samples = LAST_BATCH if step % STEPS_PER_EPOCH == STEPS_PER_EPOCH - 1 else GLOBAL_BATCH
    x = torch.randn(samples, 8, generator=torch.Generator().manual_seed(100 + step), dtype=torch.float64)
    y = x[:, :4].argmax(1)
    return x.chunk(size)[rank], y.chunk(size)[rank]


def pruner(net: nn.Module, optimizer: torch.optim.Optimizer, **settings: Any) -> Pruner:
    """Return the pruner of these runs."""
    schedule = {"name": "cubic", "begin": 2, "end": 10, "every": 2}
    settings = {"sparsity": None if settings.get("pattern") else 0.75, "schedule": schedule, **settings}
    return Pruner(net, optimizer, total_steps=STEPS, steps_per_epoch=STEPS_PER_EPOCH, **settings)


def train(
    net: nn.Module,
    ours: Pruner,
    optimizer: torch.optim.Optimizer,
    share: tuple[int, int] = (0, 1),
    *,
    first: int = 0,
    last: int = STEPS,
) -> None:
    """Train from one step to another, on the share (rank, size) of each batch."""
    for step in range(first, last):
        x, y = batch(step, *share)
        if ours.needs_layer_inputs and ours.updates_next(step % STEPS_PER_EPOCH == STEPS_PER_EPOCH - 1):
            ours.start_capture()
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        ours.stop_capture()
        optimizer.step()
        ours.tick()
        if step % STEPS_PER_EPOCH == STEPS_PER_EPOCH - 1:
            ours.end_epoch()


def adam(net: nn.Module) -> torch.optim.Optimizer:
    """Return an optimizer whose momentum and decay would bring weights back."""
    return torch.optim.Adam(net.parameters(), lr=1e-2, weight_decay=1e-2)


def alone(**settings: Any) -> dict[str, Any]:
    """Return the end of the run of one process on the global batches."""
    net = network()
    optimizer = adam(net)
    ours = pruner(net, optimizer, **settings)
    train(net, ours, optimizer)
    return ended(ours)


def ended(ours: Pruner) -> dict[str, Any]:
    """Return the masks, sparsity and weights of a run, whole."""
    state = ours.state_dict()
    weights = {t.name: t.full_tensor(t.values.clone()) for t in ours.targets}
    update = ours.last_update
    assert update is not None
    return {
        "masks": state["masks"], "sparsity": ours.sparsity, "weights": weights, "state": state["state"],
        "dropped": update.dropped, "grown": update.grown, "updates": ours.updates,
    }  # fmt: skip


def have_same_masks(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Return whether two runs ended with the same mask of every target."""
    return one["masks"].keys() == other["masks"].keys() and all(
        torch.equal(mask, other["masks"][name]) for name, mask in one["masks"].items()
    )


def share() -> tuple[int, int]:
    """Return this process's rank and how many there are."""
    return dist.get_rank(), dist.get_world_size()
