"""A check that no parameter is pruned by two pruners at once."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Protocol

from lightning_dynprune.targets import Target


class Owner(Protocol):
    """Prunes targets, which no other owner may prune meanwhile."""

    @property
    def targets(self) -> Sequence[Target]:
        """The parameters it prunes."""


_owners: weakref.WeakSet[Owner] = weakref.WeakSet()


def check_not_owned(targets: Sequence[Target]) -> None:
    """Raise where another pruner prunes one of these targets.

    Raises:
        ValueError: naming the target.
    """
    wanted = {target.parameter for target in targets}
    for owner in _owners:
        for target in owner.targets:
            if target.parameter in wanted:
                raise ValueError(
                    f"{target.name} is pruned by another pruner already; give the two disjoint targets, or call "
                    "close() on the other one first"
                )


def add_owner(owner: Owner) -> None:
    """Register the owner of its targets."""
    _owners.add(owner)


def remove_owner(owner: Owner) -> None:
    """Let other pruners prune its targets."""
    _owners.discard(owner)
