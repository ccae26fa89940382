"""No parameter is pruned by two pruners at once."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Protocol

from lightning_dynprune.targets import Target


class Owner(Protocol):
    """Who prunes targets."""

    @property
    def targets(self) -> Sequence[Target]:
        """The parameters it prunes."""


_active: weakref.WeakSet[Owner] = weakref.WeakSet()


def refuse_two_owners(targets: Sequence[Target]) -> None:
    """Raise where another owner prunes one of these targets.

    Raises:
        ValueError: naming the target.
    """
    mine = {target.parameter for target in targets}
    for other in _active:
        for target in other.targets:
            if target.parameter in mine:
                raise ValueError(
                    f"{target.name} is pruned by another pruner already; give the two disjoint targets, or call "
                    "close() on the other one first"
                )


def own(owner: Owner) -> None:
    """Note who prunes its targets from here on."""
    _active.add(owner)


def disown(owner: Owner) -> None:
    """Let others prune its targets."""
    _active.discard(owner)
