"""Checkpoints with a pruning state: what a resumed fit takes from them, its journal above all."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lightning_dynprune.base import read_checkpoint
from lightning_dynprune.engine import Pruner, sealed

ACCEPTED = (ValueError,)
TARGETS = 16


def started(steps: int) -> Pruner:
    """Return a pruner of many small targets that remembers values."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(4, 4, bias=False) for _ in range(TARGETS)))
    schedule = {"name": "linear", "begin": 1, "end": 3, "every": 1}
    settings: dict[str, Any] = {"schedule": schedule, "strategy": "magnitude", "journal": {"remember_values": True}}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner = Pruner(model, optimizer, sparsity=0.5, rewind=None, total_steps=10**6, **settings)
    for _ in range(steps):
        pruner.tick()
    return pruner


PRUNER = started(0)
FRESH = PRUNER.state_dict()


def saved(state: dict[str, Any]) -> bytes:
    """Return a checkpoint with a pruning state."""
    file = io.BytesIO()
    torch.save({"callbacks": {"DynamicPruning": state}}, file)
    return file.getvalue()


def seeds(folder: Path) -> dict[str, bytes]:
    """Return a file as it should be."""
    return {"whole": saved(started(2).state_dict())}


def read(data: bytes, folder: Path) -> bool:
    """Load the pruning state of a checkpoint, and where it is accepted look at its journal."""
    path = folder / "last.ckpt"
    path.write_bytes(data)
    try:
        content = read_checkpoint(path)
        callbacks = content.get("callbacks")
        PRUNER.load_state_dict(callbacks.get("DynamicPruning") if isinstance(callbacks, dict) else None)
    except ACCEPTED:
        return False
    finally:
        path.unlink()
    PRUNER.journal.mask_at(PRUNER.journal.earliest_step)
    PRUNER.load_state_dict(FRESH)
    return True


def _many_updates(count: int) -> dict[str, Any]:
    """Return a state of many updates that each dropped one connection of every target, and remember its value."""
    state = {key: value for key, value in started(3).state_dict().items() if key != "checksum"}
    journal = state["journal"]
    last = {key: column[-1:] for key, column in journal["updates"].items()}
    journal["updates"] = {key: column.repeat_interleave(count, 0) for key, column in last.items()}
    journal["updates"]["dropped"].fill_(1)
    journal["recorded"] = torch.tensor([1, 1, 0, 0]).repeat(count * TARGETS, 1)
    journal["positions"] = torch.zeros(count * TARGETS, dtype=torch.uint8)
    journal["valued"], journal["values"] = count, {name: torch.ones(count) for name in journal["targets"]}
    return state


def _without_positions(state: dict[str, Any]) -> dict[str, Any]:
    journal = state["journal"]
    journal["recorded"], journal["positions"] = journal["recorded"][:0].clone(), journal["positions"][:0].clone()
    journal["valued"], journal["values"] = 0, {}
    return state


def _version_2(count: int, is_shared: bool) -> dict[str, Any]:
    """Return the same in the form of version 2: a mapping for each update, or one mapping in all places."""
    state = _many_updates(count)
    journal, names = state["journal"], list(state["journal"]["targets"])
    figures = {"scheduled_sparsity": 0.5, "sparsity": 0.5, "churn": 0.1, "cuts": {}}

    def update() -> dict[str, Any]:
        return {"step": 3, **figures, "dropped": dict.fromkeys(names, 1), "grown": dict.fromkeys(names, 0)}

    one = update()
    journal["version"], journal["updates"] = 2, [one if is_shared else update() for _ in range(count)]
    return state


def _endless() -> bytes:
    """Return a list of ten times a list of ten times a list, thirty levels deep."""
    state: dict[str, Any] = dict(FRESH)
    state["journal"] = []
    for _ in range(30):
        state["journal"] = [state["journal"]] * 10
    return saved(state)


def _in_itself() -> bytes:
    state: dict[str, Any] = dict(FRESH)
    state["journal"] = dict(state["journal"])
    state["journal"]["notes"] = notes = []
    notes.append(notes)
    return saved(state)


HOSTILE: dict[str, Callable[[], bytes]] = {
    "many_small_deltas": lambda: saved(sealed(_many_updates(5_000))),
    "many_updates_without_positions": lambda: saved(sealed(_without_positions(_many_updates(50_000)))),
    "many_small_deltas_of_version_2": lambda: saved(sealed(_version_2(1_000, is_shared=False))),
    # Where the entries are one, their checksum alone would take minutes.
    "one_update_in_many_places": lambda: saved(_version_2(20_000, is_shared=True)),
    "lists_in_ten_places": _endless,
    "list_in_itself": _in_itself,
}
