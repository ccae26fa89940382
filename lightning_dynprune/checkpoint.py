"""What a pruning state in a checkpoint must be to be gone on from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from lightning_dynprune.damage import DamagedError, checksum
from lightning_dynprune.patterns import Pattern
from lightning_dynprune.targets import Target

VERSION = 4
CHECKSUM = "checksum"


def refuse_other_version(state: Mapping[str, Any]) -> None:
    """Raise where a state was written by another version.

    Raises:
        ValueError: naming both versions.
    """
    if state.get("version") != VERSION:
        raise ValueError(
            f"checkpoint: pruning state of version {state.get('version')!r} cannot be read; expected {VERSION}. Resume "
            "with the release of lightning-dynprune that wrote it, or load the weights alone and prune anew"
        )


def sealed(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state with the checksum of all that it holds."""
    content = {key: value for key, value in state.items() if key != CHECKSUM}
    return {**content, CHECKSUM: checksum(content)}


def refuse_damage(state: Mapping[str, Any]) -> None:
    """Raise where a state is not as it was :func:`sealed`; ``torch.load`` takes a flipped bit for a value.

    Raises:
        ValueError: it is damaged.
    """
    try:
        whole = state.get(CHECKSUM) == sealed(state)[CHECKSUM]
    except TypeError as error:
        raise DamagedError(f"checkpoint: the pruning state is damaged: {error}") from None
    if not whole:
        raise DamagedError(
            "checkpoint: the pruning state does not match its checksum, so it is damaged; nothing was changed. Go on "
            "from an older checkpoint, or begin anew"
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
        return
    differing = sorted(name for name in own.keys() | shapes.keys() if own.get(name) != shapes.get(name))
    name = differing[0]
    raise ValueError(
        f"checkpoint: it was made for other targets; {name} is {shapes.get(name, 'no target')} there and "
        f"{own.get(name, 'no target')} here ({len(differing)} differ). Resume with the targets of that run"
    )


def refuse_other_part(
    kind: str, part: Any, loaded: Mapping[str, Mapping[str, Tensor]], own: Mapping[str, Mapping[str, Sequence[int]]]
) -> None:
    """Raise where a strategy or threshold remembers other things than a state holds.

    Args:
        kind: "strategy" or "threshold".
        part: the one at hand.
        loaded: what the state holds, by target and key.
        own: the shapes of what the part remembers, likewise.

    Raises:
        ValueError: naming a target, and what is there and here.
    """
    for name in own:
        there = _described({key: value.shape for key, value in loaded[name].items()})
        here = _described(own[name])
        if there != here:
            raise ValueError(
                f"checkpoint: {kind} state of {name} is {there}, but {kind} {type(part).__name__} keeps {here}; "
                f"resume with the {kind} of that run"
            )


def _described(shapes: Mapping[str, Sequence[int]]) -> str:
    return ", ".join(f"{key} {tuple(shape)}" for key, shape in sorted(shapes.items())) or "nothing"
