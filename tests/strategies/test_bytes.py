"""What a strategy keeps beside the weights while training, in bytes per connection."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_dynprune.engine import Pruner
from lightning_dynprune.strategies import STRATEGIES

ROWS, COLUMNS = 32, 64
# The mask's byte included. Wanda keeps one float32 a column and a count, for all rows together.
BYTES: dict[str, tuple[float, str]] = {
    "fisher": (1, "1 byte per connection"),
    "magnitude": (1, "Memory: the mask, 1 byte per connection."),
    "sigmoid": (1, "Memory: the mask, 1 byte per connection."),
    "random": (1, "Memory: the mask, 1 byte per connection."),
    "set": (1, "Memory: the mask, 1 byte per connection."),
    "rigl": (1, "Memory: the mask, 1 byte per connection."),
    "static": (1, "Memory: the mask, 1 byte per connection."),
    "snip": (1, "Memory: the mask, 1 byte per connection."),
    "taylor": (1 + 4, "Memory: the mask and one float32, 5 bytes per connection."),
    "straight_through": (1 + 4, "Memory: the mask and the latent values, 5 bytes per connection for float32 weights."),
    "surgery": (1 + 4, "Memory: the mask and the latent values, 5 bytes per connection for float32 weights."),
    "movement": (
        1 + 8,
        "the mask, the scores and the latent values, 9 bytes per connection for float32 weights",
    ),
    "wanda": (1 + 4 / ROWS + 8 / (ROWS * COLUMNS), "4 / rows bytes per connection"),
}


def storages(holder: Any, seen: set[int] | None = None) -> dict[int, int]:
    """Return the memory of every tensor that hangs on an object of the engine: address -> bytes."""
    seen = set() if seen is None else seen
    if id(holder) in seen:
        return {}
    seen.add(id(holder))
    if isinstance(holder, Tensor):
        memory = holder.untyped_storage()
        found = {memory.data_ptr(): memory.nbytes()}
        return found if holder.grad is None else {**found, **storages(holder.grad, seen)}
    if isinstance(holder, dict):
        parts = list(holder.values())
    elif isinstance(holder, (list, tuple, set)):
        parts = list(holder)
    elif type(holder).__module__.startswith("lightning_dynprune"):
        parts = list(vars(holder).values())
    else:
        return {}
    return {address: size for part in parts for address, size in storages(part, seen).items()}


def test_every_strategy_is_in_the_table():
    assert set(BYTES) == set(STRATEGIES.names())


@pytest.mark.parametrize("strategy", BYTES)
def test_a_strategy_keeps_the_bytes_that_its_docstring_states(strategy):
    net = nn.Linear(COLUMNS, ROWS, bias=False)
    kind = torch.optim.Adam if STRATEGIES[strategy].needs_squared_gradients else torch.optim.SGD
    optimizer = kind(net.parameters(), lr=0.1)
    schedule = {"name": "constant", "begin": 1, "end": 4, "every": 2}
    pruner = Pruner(net, optimizer, sparsity=0.5, strategy=strategy, schedule=schedule, journal=False, total_steps=8)
    for _ in range(6):
        if pruner.needs_layer_inputs:
            pruner.calibrate([torch.randn(4, COLUMNS)])
        optimizer.zero_grad()
        net(torch.randn(8, COLUMNS)).square().mean().backward()
        optimizer.step()
        pruner.tick()
    assert pruner.updates
    slots = [slot for slot in optimizer.state[net.weight].values() if isinstance(slot, torch.Tensor)]
    own = {tensor.untyped_storage().data_ptr() for tensor in (net.weight, net.weight.grad, *slots)}
    held = sum(size for address, size in storages(pruner).items() if address not in own)
    expected, said = BYTES[strategy]
    assert held == expected * ROWS * COLUMNS
    assert said in " ".join((type(pruner.strategy).__doc__ or "").split())
