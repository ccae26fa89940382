"""Return the pruner's state from spawned workers to the main process."""

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

from lightning_dynprune.base import is_number, read_checkpoint
from lightning_dynprune.callback.compat import add_to_results, is_worker
from lightning_dynprune.engine import read_state
from lightning_dynprune.masks import unpack_bits


class WorkerResult:
    """Holds the masks and sparsities of a run that was pruned in worker processes.

    Args:
        state: state of the workers' pruner.
        target_sparsity: share of connections to end at.

    Attributes:
        state: as given.
        target_sparsity: as given.
        scheduled_sparsity: share of connections that the schedule asked for at the last update.
        masks: the mask of every target, by name.
        connections: number of connections of every target, by name, including those that were slimmed away.

    Example:
        >>> from lightning_dynprune.engine import Pruner
        >>> once = {"name": "one_shot", "begin": 1}
        >>> pruner = Pruner(torch.nn.Linear(4, 4), sparsity=0.5, strategy="magnitude", schedule=once)
        >>> _ = pruner.tick()
        >>> WorkerResult(pruner.state_dict(), pruner.target_sparsity).layer_sparsity
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
        return {n: (total - int(self.masks[n].sum())) / total for n, total in self.connections.items() if total}


class Listener(Protocol):
    """Receives the result of worker processes, in the process that started them."""

    def on_worker_result(self, result: WorkerResult) -> None:
        """Store the result."""


_LISTENERS: WeakValueDictionary[str, Listener] = WeakValueDictionary()


def listener_id(listener: Listener, pickled_id: str | None = None) -> str:
    """Register a listener in this process, and return the id by which messages find it.

    Args:
        listener: receives the results.
        pickled_id: its id in the process where it was pickled. The copy in a worker keeps it, as its results are for
            the listener in the main process; a copy in the same process gets another.
    """
    key = uuid.uuid4().hex if pickled_id is None or pickled_id in _LISTENERS else pickled_id
    _LISTENERS[key] = listener
    return key


class WorkerMessage:
    """Passes a pruner's state to a listener in the process where the message is unpickled.

    The state is written to a temporary file, as Lightning does with the weights: a queue that is not read holds 64 KiB.

    Args:
        listener_id: of the listener in the main process.
        state: state of the pruner.
        target_sparsity: share of connections to end at.
    """

    def __init__(self, listener_id: str, state: dict[str, Any], target_sparsity: float) -> None:
        self._listener_id, self._file = listener_id, Path(tempfile.mkdtemp()) / "pruning.pt"
        torch.save({"state": state, "target_sparsity": target_sparsity}, self._file)

    def __reduce__(self) -> tuple[Any, ...]:
        return _deliver, (self._listener_id, os.fspath(self._file))

    def __deepcopy__(self, memo: dict[int, Any]) -> WorkerMessage:
        # Lightning copies its results before it sends them, which must not deliver the message.
        return self


def returns_results(trainer: Any) -> bool:
    """Return whether this process is the worker whose results the main process receives."""
    return is_worker(trainer) and bool(trainer.is_global_zero)


def send_to_main_process(trainer: Any, message: WorkerMessage) -> None:
    """Deliver a message in the main process when the worker has ended.

    Args:
        trainer: in ``teardown`` of a fit, in the worker for which :func:`returns_results` is true.
        message: for a listener in the main process.
    """
    add_to_results(trainer, message)


def _deliver(listener_id: str, file: str) -> None:
    try:
        sent: dict[str, Any] = read_checkpoint(Path(file))
        state = read_state(sent.get("state", {}))
        target: Any = sent.get("target_sparsity")
        if not is_number(target):
            raise ValueError(f"target_sparsity={target!r} is no number")
    except ValueError as error:
        raise ValueError(
            f"the pruning state that a worker process returned in {file} is not accepted: {error}"
        ) from error
    finally:
        shutil.rmtree(Path(file).parent)
    if (listener := _LISTENERS.get(listener_id)) is not None:
        listener.on_worker_result(WorkerResult(state, float(target)))
