"""Checks that a pruning state belongs to the targets and parts of this run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from lightning_dynprune.base import printable
from lightning_dynprune.masks import LATENT
from lightning_dynprune.patterns import Pattern
from lightning_dynprune.targets import Target


def validate_latent(
    targets: Sequence[Target], masks: Sequence[Tensor], state: Mapping[str, Mapping[str, Tensor]]
) -> None:
    """Raise where a connection has a latent value and is kept: the two values would be merged bit by bit.

    Args:
        targets: with latent weights.
        masks: one a target, of its local part.
        state: of the strategy, by target and key.

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


def validate_pattern(pattern: Pattern, state: Mapping[str, Any]) -> None:
    """Raise where a state was written with another pattern.

    Raises:
        ValueError: naming both patterns.
    """
    if state["pattern"] != pattern.label:
        raise ValueError(
            f"checkpoint: it was pruned by pattern {printable(state['pattern'])}, not {pattern.label}; resume with "
            "that one"
        )


def validate_targets(targets: Sequence[Target], state: Mapping[str, Any]) -> None:
    """Raise where a state has other targets, or targets of other shapes.

    Raises:
        ValueError: naming a target that differs.
    """
    shapes = {name: tuple(shape) for name, shape in state["shapes"].items()}
    own = {t.name: tuple(t.parameter.shape) for t in targets}
    if shapes == own:
        # Connections that were slimmed away count too.
        for (name, shape), numel in zip(own.items(), state["original_numel"], strict=True):
            if numel < prod(shape):
                raise ValueError(
                    f"checkpoint: 'original_numel' does not count the connections of {name}; the file is damaged"
                )
        return
    differing = sorted(name for name in own.keys() | shapes.keys() if own.get(name) != shapes.get(name))
    name = differing[0]
    raise ValueError(
        f"checkpoint: it was made for other targets; {printable(name)} is {shapes.get(name, 'no target')} there and "
        f"{own.get(name, 'no target')} here ({len(differing)} differ). Resume with the targets of that run"
    )


def validate_part_state(
    kind: str, part: Any, loaded: Mapping[str, Mapping[str, Tensor]], own: Mapping[str, Mapping[str, Tensor]]
) -> None:
    """Raise where the tensors of a strategy or threshold differ from those of a state.

    Args:
        kind: "strategy" or "threshold".
        part: the strategy or threshold of this run.
        loaded: tensors of the state, by target and key.
        own: tensors of the part, or tensors of their shapes and types without content, likewise.

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
    return ", ".join(f"{printable(key)} {tuple(v.shape)}{_kind(v)}" for key, v in sorted(tensors.items())) or "nothing"


def _kind(tensor: Tensor) -> str:
    return "" if tensor.is_floating_point() else " complex" if tensor.is_complex() else " whole"
