"""What a pruning state in a checkpoint must be to be gone on from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from lightning_dynprune.base import DamagedError, is_number, is_whole, state_checksum
from lightning_dynprune.journal import read_update
from lightning_dynprune.masks import LATENT
from lightning_dynprune.patterns import Pattern
from lightning_dynprune.targets import Target

VERSION = 4
CHECKSUM = "checksum"
_MOST = 2**63


def refuse_other_version(state: Mapping[str, Any]) -> None:
    """Raise where a state was written by another version.

    Raises:
        ValueError: naming both versions.
    """
    version = state.get("version") if isinstance(state, Mapping) else None
    if type(version) is not int or version != VERSION:
        raise ValueError(
            f"checkpoint: pruning state of version {version!r} cannot be read; expected {VERSION}. Resume with the "
            "release of lightning-dynprune that wrote it, or load the weights alone and prune anew"
        )


def sealed(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state with the checksum of all that it holds."""
    content = {key: value for key, value in state.items() if key != CHECKSUM}
    return {**content, CHECKSUM: state_checksum(content)}


def state_for_new_fit(state: Mapping[str, Any], fresh: Mapping[str, Any], previous_sparsity: float) -> dict[str, Any]:
    """Return the state that a new training begins with when it keeps what an earlier one has pruned.

    Args:
        state: of the pruner of the earlier training.
        fresh: of the pruner of the new training, before its first step; its clock and journal are kept.
        previous_sparsity: share of connections that the earlier training pruned; the schedule goes on from there.
    """
    kept = {key: fresh[key] for key in ("clock", "lag", "paused", "last_update", "journal")}
    return sealed({**state, **kept, "carried": previous_sparsity})


def refuse_other_checksum(state: Mapping[str, Any]) -> None:
    """Raise where a state is not as it was :func:`sealed`; ``torch.load`` takes a flipped bit for a value.

    Raises:
        ValueError: it is damaged.
    """
    try:
        kept = state.get(CHECKSUM)
        whole = type(kept) is int and kept == sealed(state)[CHECKSUM]
    except (TypeError, RecursionError) as error:
        raise DamagedError(f"checkpoint: the pruning state is damaged: {error}") from None
    if not whole:
        raise DamagedError(
            "checkpoint: the pruning state does not match its checksum, so it is damaged; nothing was changed. Go on "
            "from an older checkpoint, or begin anew"
        )


def refuse_damaged(state: Mapping[str, Any]) -> None:
    """Raise where a state of this version lacks something, or has something of another kind or out of range.

    Tensors are looked at, not read: a sparse or expanded one may announce far more entries than its file holds.

    Args:
        state: from a file, and not to be trusted. What a journal's record holds the journal checks itself.

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
    tensors = {f"mask of {name}": {"": mask} for name, mask in state["masks"].items()}
    tensors |= {f"{key} of {name}": state[key][name] for key in ("state", "memory") for name in state["shapes"]}
    tensors |= {f"'{key}'": state[key] for key in ("rewind", "units") if state[key] is not None}
    if state["turns"] is not None:
        tensors["'turns'"] = state["turns"]["gradients"]
        for name, grad in state["turns"]["gradients"].items():
            if not isinstance(grad, Tensor) or list(grad.shape) != state["shapes"].get(name):
                raise ValueError(f"checkpoint: the gradient of {name} in 'turns' does not fit it; the file is damaged")
    for what, entries in tensors.items():
        if not isinstance(entries, Mapping) or not all(isinstance(k, str) and _is_dense(v) for k, v in entries.items()):
            raise ValueError(f"checkpoint: {what} in the pruning state holds more than dense tensors; it is damaged")
    if len(state["whole"]) != len(state["shapes"]):
        raise ValueError("checkpoint: 'whole' does not count the connections of every target; the file is damaged")
    if state["last_update"] is not None:
        sizes = dict(zip(state["shapes"], state["whole"], strict=True))
        read_update(state["last_update"], sizes, "checkpoint: last_update")


def refuse_overlap(
    targets: Sequence[Target], masks: Sequence[Tensor], state: Mapping[str, Mapping[str, Tensor]]
) -> None:
    """Raise where a latent value lies where a connection lives: the two would be merged bit by bit.

    Args:
        targets: with latent weights.
        masks: one a target, of the part of it that is here.
        state: what the strategy remembers, by target and key.

    Raises:
        ValueError: naming the target.
    """
    for target, mask in zip(targets, masks, strict=True):
        hidden = target.local_part(state[target.name][LATENT].detach()).contiguous()
        # By the bytes of an entry, not by their number: a part may be empty.
        entries = hidden.reshape(-1).view(torch.uint8).reshape(-1, hidden.element_size())
        if entries[mask.reshape(-1).to(hidden.device)].any():
            raise ValueError(
                f"checkpoint: latent values of {target.name} lie where its connections live; the file is damaged"
            )


def refuse_other_pattern(pattern: Pattern, state: Mapping[str, Any]) -> None:
    """Raise where a state was pruned in other units.

    Raises:
        ValueError: naming both patterns.
    """
    if state["pattern"] != pattern.label:
        raise ValueError(
            f"checkpoint: it was pruned by pattern {state['pattern']}, not {pattern.label}; resume with that one"
        )


def refuse_other_targets(targets: Sequence[Target], state: Mapping[str, Any]) -> None:
    """Raise where a state is of other targets, or of targets of other shapes.

    Raises:
        ValueError: naming a target that differs.
    """
    shapes = {name: tuple(shape) for name, shape in state["shapes"].items()}
    own = {t.name: tuple(t.parameter.shape) for t in targets}
    if shapes == own:
        # What was slimmed away counts too.
        if short := [n for (n, shape), whole in zip(own.items(), state["whole"], strict=True) if whole < prod(shape)]:
            raise ValueError(f"checkpoint: 'whole' does not count the connections of {short[0]}; the file is damaged")
        return
    differing = sorted(name for name in own.keys() | shapes.keys() if own.get(name) != shapes.get(name))
    name = differing[0]
    raise ValueError(
        f"checkpoint: it was made for other targets; {name} is {shapes.get(name, 'no target')} there and "
        f"{own.get(name, 'no target')} here ({len(differing)} differ). Resume with the targets of that run"
    )


def refuse_other_part(
    kind: str, part: Any, loaded: Mapping[str, Mapping[str, Tensor]], own: Mapping[str, Mapping[str, Tensor]]
) -> None:
    """Raise where a strategy or threshold remembers other things than a state holds.

    Args:
        kind: "strategy" or "threshold".
        part: the one at hand.
        loaded: what the state holds, by target and key.
        own: what the part remembers, or tensors like it without content, likewise.

    Raises:
        ValueError: naming a target, and what is there and here.
    """
    for name in own:
        there, here = _described(loaded[name]), _described(own[name])
        if there != here:
            raise ValueError(
                f"checkpoint: {kind} state of {name} is {there}, but {kind} {type(part).__name__} keeps {here}; "
                f"resume with the {kind} of that run"
            )


def _described(tensors: Mapping[str, Tensor]) -> str:
    return ", ".join(f"{key} {tuple(v.shape)}{_kind(v)}" for key, v in sorted(tensors.items())) or "nothing"


def _kind(tensor: Tensor) -> str:
    return "" if tensor.is_floating_point() else " complex" if tensor.is_complex() else " whole"


def _is_dense(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and not (value.is_meta or value.is_quantized)


def _is_count(value: Any) -> bool:
    return is_whole(value) and 0 <= value < _MOST


def _is_share(value: Any) -> bool:
    return is_number(value) and 0 <= value <= 1


def _is_clock(value: Any) -> bool:
    return isinstance(value, Mapping) and set(value) == {"step", "epoch"} and all(map(_is_count, value.values()))


def _are_turns(value: Any) -> bool:
    return value is None or (
        isinstance(value, Mapping)
        and set(value) == {"optimizers", "gradients"}
        and isinstance(value["optimizers"], list)
        and all(map(_is_count, value["optimizers"]))
        and isinstance(value["gradients"], Mapping)
    )


def _are_shapes(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(name, str) and isinstance(shape, list) and all(map(_is_count, shape))
        for name, shape in value.items()
    )


_PLAIN: dict[str, tuple[Callable[[Any], bool], str]] = {
    "clock": (_is_clock, "a step and an epoch"),
    "lag": (_is_clock, "a step and an epoch"),
    "paused": (lambda value: isinstance(value, bool), "true or false"),
    "updates": (_is_count, "a number of updates"),
    "scheduled_sparsity": (_is_share, "a share"),
    "carried": (_is_share, "a share"),
    "seed": (is_whole, "a whole number"),
    "pattern": (lambda value: isinstance(value, str), "a name"),
    "shapes": (_are_shapes, "a shape for each target"),
    "whole": (lambda value: isinstance(value, list) and all(map(_is_count, value)), "a list of numbers"),
    "at_floor": (lambda value: isinstance(value, list) and all(isinstance(n, str) for n in value), "a list of names"),
    "turns": (_are_turns, "the optimizers that had their turns, and their gradients"),
    "journal": (lambda value: value is None or isinstance(value, Mapping), "a record"),
}
_KEYS = (*_PLAIN, "last_update", "masks", "state", "memory", "rewind", "units")
