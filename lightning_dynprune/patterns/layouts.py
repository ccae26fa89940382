"""The check that the inputs and outputs of every target are known."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_dynprune.targets import Target


def check_layouts(label: str, targets: Sequence[Target]) -> None:
    """Raise if it is not known which dimensions of a target are its inputs.

    Args:
        label: the pattern, for the message.
        targets: all targets of the run.

    Raises:
        ValueError: a target has an unknown layout; the message names it and what is accepted.
    """
    for target in targets:
        if not target.known_layout:
            shape = tuple(target.parameter.shape)
            raise ValueError(
                f"pattern {label}: it is not known which dimensions of {target.name}, of shape {shape}, are inputs; "
                "exclude it, or give pattern='element'"
            )
