"""What worker processes know at the end of a training, brought to the process that started them."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import uuid
from pathlib import Path
from typing import Any, Protocol
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from lightning_dynprune.masks import unpack_bits


class Told:
    """What a callback can say of a run that its workers have pruned.

    Args:
        state: of their pruner.
        target_sparsity: share of connections to end at.

    Attributes:
        state: as given.
        target_sparsity: as given.
        scheduled_sparsity: what the schedule asked for at the last update.
        masks: the mask of every target, by name.
        connections: of every target, by name, those that were slimmed away among them.

    Example:
        >>> from lightning_dynprune.engine import Pruner
        >>> once = {"name": "one_shot", "begin": 1}
        >>> pruner = Pruner(torch.nn.Linear(4, 4), sparsity=0.5, strategy="magnitude", schedule=once)
        >>> _ = pruner.tick()
        >>> Told(pruner.state_dict(), pruner.target_sparsity).layer_sparsity
        {'weight': 0.5}
    """

    def __init__(self, state: dict[str, Any], target_sparsity: float) -> None:
        self.state, self.target_sparsity = state, target_sparsity
        self.scheduled_sparsity: float = state["scheduled_sparsity"]
        self.masks: dict[str, Tensor] = {
            name: unpack_bits(state["masks"][name], math.prod(shape), name).view(shape)
            for name, shape in state["shapes"].items()
        }
        self.connections: dict[str, int] = dict(zip(self.masks, state["original_numel"], strict=True))

    @property
    def sparsity(self) -> float:
        """Share of connections pruned, over the targets."""
        total = sum(self.connections.values())
        return (total - sum(int(mask.sum()) for mask in self.masks.values())) / total

    @property
    def layer_sparsity(self) -> dict[str, float]:
        """Share of connections pruned, by target."""
        return {n: (whole - int(self.masks[n].sum())) / whole for n, whole in self.connections.items() if whole}


class Listener(Protocol):
    """Who is told."""

    def hear(self, told: Told) -> None:
        """Take what the workers know."""


_LISTENERS: WeakValueDictionary[str, Listener] = WeakValueDictionary()


def address(listener: Listener, own: str | None = None) -> str:
    """Return where a listener hears from its workers.

    Args:
        listener: in this process.
        own: its address where it was pickled. A worker's copy keeps it, for it speaks for the listener at home; a copy
            beside the listener gets another.
    """
    place = uuid.uuid4().hex if own is None or own in _LISTENERS else own
    _LISTENERS[place] = listener
    return place


class Letter:
    """Delivers what a worker knows where it is unpickled: in the process at the other end of a Trainer's queue.

    The state lies in a file, as the weights do that Lightning brings home: a queue that is not read takes 64 KiB.
    """

    def __init__(self, place: str, state: dict[str, Any], target_sparsity: float) -> None:
        self._place, self._file = place, Path(tempfile.mkdtemp()) / "pruning.pt"
        torch.save({"state": state, "target_sparsity": target_sparsity}, self._file)

    def __reduce__(self) -> tuple[Any, ...]:
        return _deliver, (self._place, os.fspath(self._file))

    def __deepcopy__(self, memo: dict[int, Any]) -> Letter:
        # Lightning copies what it is about to send, which is no delivery.
        return self


def _deliver(place: str, file: str) -> None:
    told = torch.load(file, weights_only=True)
    shutil.rmtree(Path(file).parent)
    if (listener := _LISTENERS.get(place)) is not None:
        listener.hear(Told(told["state"], told["target_sparsity"]))


def is_away(trainer: Any) -> bool:
    """Return whether this is a worker process of ``ddp_spawn`` or ``ddp_fork``, which ends with the training."""
    # By name, for lightning and pytorch_lightning are two class trees.
    return any(c.__name__ == "_MultiProcessingLauncher" for c in type(trainer.strategy.launcher).__mro__)


def send(trainer: Any, letter: Letter) -> None:
    """Let a Trainer bring a letter home: its state travels to the process that started the workers."""
    vars(trainer.state).setdefault("_dynprune", []).append(letter)
