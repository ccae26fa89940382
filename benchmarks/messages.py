"""What processes tell each other: every collective of torch.distributed that a block calls, and what it was for."""

from __future__ import annotations

import sys
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# (room, function) of the package that is on the stack -> the purpose of its messages. The first that is found counts.
PURPOSES = {
    ("selection", "_ties_here"): "places of ties",
    ("selection", "kth_largest_each"): "digits of the cut",
    ("distributed", "concat_each"): "sample",
    ("distributed", "raise_together"): "error flags",
    ("distributed", "check_equal"): "checksums",
    ("selection", "_add"): "counts of the bracket",
    ("selection", "_settle"): "counts at the cut",
    ("masks", "_added"): "counts of new masks",
    ("masks", "pack"): "checkpoint: masks",
    ("engine", "state_dict"): "checkpoint: state",
}
# Operator -> whether it is a sum, and which argument a process sends. DTensor calls the functional ones.
_OPERATORS = {
    "c10d::allreduce_": (True, 0),
    "c10d::allgather_": (False, 1),
    "c10d::_allgather_base_": (False, 1),
    "_c10d_functional::all_reduce": (True, 0),
    "_c10d_functional::all_gather_into_tensor": (False, 0),
}
# What a collective that is not above would be called; waiting and wrapping send nothing.
_SENDING = ("reduce", "gather", "scatter", "all_to_all", "broadcast", "send", "recv")


@dataclass
class Traffic:
    """Messages of one purpose, as one process sends them.

    Attributes:
        messages: calls of a collective.
        payload: bytes that the process hands to them.
        moved: bytes that it sends where they go round a ring: an all-gather passes each part on to all but one, and a
            sum takes two rounds of parts, about twice the payload.
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
    """Counts the collectives of a ``with`` block by purpose.

    The dispatcher shows all of them: those of ``torch.distributed``, and those that ``DTensor`` calls by itself.

    Args:
        ranks: how many processes there are.

    Raises:
        ValueError: a collective that is not known here, or one that no purpose is known of.
    """

    def __init__(self, ranks: int) -> None:
        super().__init__()
        self.ranks = ranks
        self.traffic: dict[str, Traffic] = defaultdict(Traffic)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note what is sent, and let it be sent."""
        name = func.name().split(".")[0]
        if name in _OPERATORS:
            is_sum, place = _OPERATORS[name]
            sent = sum(tensor.numel() * tensor.element_size() for tensor in _flat(args[place]))
            self.traffic[purpose()].add(sent, self.ranks, is_sum)
        elif "c10d" in name and any(word in name for word in _SENDING):
            raise ValueError(f"{name} is a collective that messages.py does not count yet")
        return func(*args, **(kwargs or {}))


def purpose() -> str:
    """Return what the message is for that is about to be sent, as the stack tells.

    Raises:
        ValueError: nothing on the stack is known.
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
    raise ValueError(f"no purpose is known of a message of {sorted(functions)}; add it to PURPOSES in messages.py")


def _flat(argument: Any) -> list[torch.Tensor]:
    return [argument] if isinstance(argument, torch.Tensor) else [t for part in argument for t in _flat(part)]
