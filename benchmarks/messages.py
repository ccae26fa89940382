"""Count the collectives of torch.distributed that a block of code calls, by their purpose."""

from __future__ import annotations

import sys
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# (room, function) of the package that is on the stack -> the purpose of its messages. The first that is found counts.
PURPOSES = {
    ("selection", "_local_ties"): "places of ties",
    ("selection", "kth_largest_each"): "digits of the cut",
    ("distributed", "concat_each"): "sample",
    ("distributed", "raise_together"): "error flags",
    ("distributed", "check_equal"): "checksums",
    ("selection", "sum_counts"): "counts of the bracket",
    ("selection", "cuts_of"): "counts at the cut",
    ("masks", "_summed"): "counts of new masks",
    ("masks", "pack"): "checkpoint: masks",
    ("engine", "save_run"): "checkpoint: state",
}
# Operator -> whether it is a sum, and the index of the argument that is sent. DTensor calls the functional ones.
_OPERATORS = {
    "c10d::allreduce_": (True, 0),
    "c10d::allgather_": (False, 1),
    "c10d::_allgather_base_": (False, 1),
    "_c10d_functional::all_reduce": (True, 0),
    "_c10d_functional::all_gather_into_tensor": (False, 0),
}
# Parts of the names of collectives that are not listed above; operators that wait or wrap send nothing.
_SENDING = ("reduce", "gather", "scatter", "all_to_all", "broadcast", "send", "recv")


@dataclass
class Traffic:
    """Number and bytes of the messages that one process sends for one purpose.

    Attributes:
        messages: calls of a collective.
        payload: bytes that the process passes to them.
        moved: bytes that it sends over a ring: in an all-gather every part goes to all processes but one, and a sum
            needs two rounds of parts, about twice the payload.
    """

    messages: int = 0
    payload: int = 0
    moved: float = 0.0

    def add(self, payload: int, ranks: int, is_sum: bool, messages: int = 1) -> Traffic:
        """Count messages of ``payload`` bytes each."""
        self.messages += messages
        self.payload += messages * payload
        self.moved += messages * payload * (2 * (ranks - 1) / ranks if is_sum else ranks - 1)
        return self


class Meter(TorchDispatchMode):
    """Dispatch mode that counts the collectives of a ``with`` block by purpose.

    The dispatcher sees all of them: calls of ``torch.distributed`` and those that ``DTensor`` makes.

    Args:
        ranks: number of processes.

    Raises:
        ValueError: the collective, or its purpose, is unknown.
    """

    def __init__(self, ranks: int) -> None:
        super().__init__()
        self.ranks = ranks
        self.traffic: dict[str, Traffic] = defaultdict(Traffic)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count a collective and run it."""
        name = func.name().split(".")[0]
        if name in _OPERATORS:
            is_sum, place = _OPERATORS[name]
            sent = sum(tensor.numel() * tensor.element_size() for tensor in _flat(args[place]))
            self.traffic[purpose()].add(sent, self.ranks, is_sum)
        elif "c10d" in name and any(word in name for word in _SENDING):
            raise ValueError(f"{name} is a collective that benchmarks/messages.py does not count; add it to _OPERATORS")
        return func(*args, **(kwargs or {}))


def purpose() -> str:
    """Return the purpose of the current message, read from the functions on the call stack.

    Raises:
        ValueError: no function on the stack is in ``PURPOSES``.
    """
    frame, functions = sys._getframe(1), set()
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.startswith("lightning_dynprune."):
            functions.add((module.split(".")[1], frame.f_code.co_name))
        frame = frame.f_back
    for function, what in PURPOSES.items():
        if function in functions:
            return what
    raise ValueError(
        f"no purpose is known of a message of {sorted(functions)}; add a function to PURPOSES in benchmarks/messages.py"
    )


def _flat(argument: Any) -> list[torch.Tensor]:
    return [argument] if isinstance(argument, torch.Tensor) else [t for part in argument for t in _flat(part)]
