"""Pruning states in a checkpoint: ``load_state_dict`` of pruner and callback, of any tensors and values."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_dynprune.engine import AccuracyGuard, Pruner, sealed

ACCEPTED = (ValueError,)
KINDS = ("magnitude", "straight_through", "taylor", "wanda", "channel")
HOSTILE: list[Any] = [
    None, True, -1, 2**70, 0.5, float("nan"), float("inf"), "", "x" * 50, b"x", [], [1, "a"], {}, {"a": 1}, {1: 2}, (),
    torch.zeros(0), torch.zeros(3), torch.tensor(float("nan")), torch.zeros(1).expand(2**40), torch.ones(6, 8),
    torch.zeros(2, 2).to_sparse(), torch.sparse_coo_tensor(size=(2**30, 2**30)), torch.zeros(6, 8, device="meta"),
    torch.zeros(6, dtype=torch.uint8), torch.full((6,), 255, dtype=torch.uint8), torch.zeros(6, 8, dtype=torch.int64),
    torch.zeros(6, 8, dtype=torch.complex64), torch.quantize_per_tensor(torch.zeros(6, 8), 1.0, 0, torch.qint8),
]  # fmt: skip


def started(kind: str, steps: int = 3) -> Pruner:
    """Return a pruner that has been at work."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    settings: dict[str, Any] = {"strategy": kind, "journal": {"remember_values": True}}
    if kind == "channel":
        settings |= {"strategy": "magnitude", "pattern": "channel", "example_input": torch.zeros(1, 8)}
    schedule = {"name": "linear", "begin": 1, "end": 3, "every": 1}
    pruner = Pruner(model, optimizer, sparsity=0.5, schedule=schedule, rewind=None, total_steps=9, **settings)
    for _ in range(steps):
        pruner.start_capture() if pruner.needs_layer_inputs else None
        optimizer.zero_grad()
        model(torch.randn(4, 8)).square().mean().backward()
        optimizer.step()
        pruner.tick()
    pruner.stop_capture()
    return pruner


PRUNERS = {kind: started(kind) for kind in KINDS}
STATES = {kind: copy.deepcopy(pruner.state_dict()) for kind, pruner in PRUNERS.items()}


def seeds(folder: Path) -> dict[str, bytes]:
    """Return scripts of changes: a byte for the pruner, then three a change: where, what, how."""
    return {kind: bytes([number, 3 * number, number, 0, 40, 7, 1]) for number, kind in enumerate(KINDS)}


def read(data: bytes, folder: Path) -> bool:
    """Load a state that has been changed by the bytes' script; where it is refused nothing changes."""
    kind = KINDS[data[0] % len(KINDS)] if data else KINDS[0]
    pruner, state = PRUNERS[kind], copy.deepcopy(STATES[kind])
    state["guard"] = AccuracyGuard().state_dict()
    for start in range(1, min(len(data), 13) - 2, 3):
        change(state, *data[start : start + 3])
    if data[:1] < b"\x80":  # else the checksum is what refuses
        with contextlib.suppress(TypeError, RecursionError):
            state = sealed(state)
    before = copy.deepcopy(pruner.state_dict())
    with contextlib.suppress(*ACCEPTED):
        AccuracyGuard().load_state_dict(state.pop("guard", None))
    try:
        pruner.load_state_dict(state)
    except ACCEPTED:
        after = pruner.state_dict()
        assert str(after) == str(before)
        return False
    if pruner.journal is not None:
        pruner.journal.mask_at(pruner.journal.earliest_step)
        pruner.journal.summary()
    pruner.load_state_dict(STATES[kind])
    return True


def _is_plain(value: Tensor) -> bool:
    dense = value.layout == torch.strided and not (value.is_meta or value.is_quantized)
    return dense and 0 < value.numel() < 2**20


def change(state: dict[str, Any], where: int, what: int, how: int) -> None:
    """Put a hostile value into one place of a tree, change a tensor a little, or take the place away."""
    places = list(_places(state))
    holder, key = places[(where + 256 * (how // 8)) % len(places)]
    value = holder[key]
    if how % 8 == 0 and isinstance(holder, dict):
        del holder[key]
    elif how % 8 < 4 and isinstance(value, Tensor) and _is_plain(value):
        changed = value.clone()
        changed.view(-1)[what % value.numel()] = (-1, 255, 2**40, 0)[what % 4] if value.dtype == torch.int64 else what
        holder[key] = changed
    elif how % 8 < 4 and isinstance(value, (int, float)) and not isinstance(value, bool):
        holder[key] = value + (what - 128)
    else:
        holder[key] = copy.deepcopy(HOSTILE[what % len(HOSTILE)])


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    for key in list(tree) if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ():
        yield tree, key
        yield from _places(tree[key])
