"""The entries of a pruning state, and what each of them has to be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_dynprune.base import is_number, is_whole, printable
from lightning_dynprune.journal import read_update

_MOST = 2**63


def validate_structure(state: Mapping[str, Any]) -> None:
    """Raise where an entry of a state is missing, of the wrong type or out of range.

    The values of tensors are not read: a sparse or expanded one may announce far more entries than its file holds.

    Args:
        state: from a file, and not to be trusted. The journal validates its own entry.

    Raises:
        ValueError: naming the entry.
    """
    if missing := [key for key in _KEYS if key not in state]:
        raise ValueError(f"checkpoint: {missing[0]!r} is missing in the pruning state; the file is damaged")
    for key, (is_right, expected) in _PLAIN.items():
        if not is_right(state[key]):
            raise ValueError(f"checkpoint: {key!r} of the pruning state is not {expected}; the file is damaged")
    for key in ("masks", "state", "memory"):
        if not isinstance(state[key], Mapping) or set(state[key]) != set(state["shapes"]):
            raise ValueError(f"checkpoint: {key!r} of the pruning state does not name its targets; the file is damaged")
    tensors = {f"mask of {printable(name)}": {"": mask} for name, mask in state["masks"].items()}
    tensors |= {
        f"{key} of {printable(name)}": state[key][name] for key in ("state", "memory") for name in state["shapes"]
    }
    tensors |= {f"'{key}'": state[key] for key in ("rewind", "units") if state[key] is not None}
    if state["gradient_snapshot"] is not None:
        tensors["'gradient_snapshot'"] = state["gradient_snapshot"]["gradients"]
        for name, grad in state["gradient_snapshot"]["gradients"].items():
            if not isinstance(grad, Tensor) or list(grad.shape) != state["shapes"].get(name):
                raise ValueError(
                    f"checkpoint: the gradient of {printable(str(name))} in 'gradient_snapshot' does not fit it; the "
                    "file is damaged"
                )
    for what, entries in tensors.items():
        if not isinstance(entries, Mapping) or not all(isinstance(k, str) and _is_dense(v) for k, v in entries.items()):
            raise ValueError(f"checkpoint: {what} in the pruning state holds more than dense tensors; it is damaged")
    if len(state["original_numel"]) != len(state["shapes"]):
        raise ValueError(
            "checkpoint: 'original_numel' does not count the connections of every target; the file is damaged"
        )
    if state["last_update"] is not None:
        sizes = dict(zip(state["shapes"], state["original_numel"], strict=True))
        read_update(state["last_update"], sizes, "checkpoint: last_update")


def _is_dense(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and not (value.is_meta or value.is_quantized)


def _is_count(value: Any) -> bool:
    return is_whole(value) and 0 <= value < _MOST


def _is_share(value: Any) -> bool:
    return is_number(value) and 0 <= value <= 1


def _is_clock(value: Any) -> bool:
    return isinstance(value, Mapping) and set(value) == {"step", "epoch"} and all(map(_is_count, value.values()))


def _is_snapshot(value: Any) -> bool:
    return value is None or (
        isinstance(value, Mapping)
        and set(value) == {"stepped_optimizers", "gradients"}
        and isinstance(value["stepped_optimizers"], list)
        and all(map(_is_count, value["stepped_optimizers"]))
        and isinstance(value["gradients"], Mapping)
    )


def _are_counts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_count, value))


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _are_shapes(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(name, str) and isinstance(shape, list) and all(map(_is_count, shape))
        for name, shape in value.items()
    )


_PLAIN: dict[str, tuple[Callable[[Any], bool], str]] = {
    "clock": (_is_clock, "a step and an epoch"),
    "paused_for": (_is_clock, "a step and an epoch"),
    "paused": (lambda value: isinstance(value, bool), "true or false"),
    "updates": (_is_count, "a number of updates"),
    "scheduled_sparsity": (_is_share, "a share"),
    "previous_sparsity": (_is_share, "a share"),
    "requested_sparsity": (lambda value: value is None or _is_share(value), "a share or None"),
    "seed": (is_whole, "a whole number"),
    "pattern": (lambda value: isinstance(value, str), "a name"),
    "shapes": (_are_shapes, "a shape for each target"),
    "original_numel": (_are_counts, "a list of numbers"),
    "at_min_kept": (_are_names, "a list of names"),
    "gradient_snapshot": (_is_snapshot, "the optimizers that have stepped, and their gradients"),
    "journal": (lambda value: value is None or isinstance(value, Mapping), "a record"),
}
_KEYS = (*_PLAIN, "last_update", "masks", "state", "memory", "rewind", "units")
