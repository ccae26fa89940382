"""The whole state of a pruning run, for a checkpoint and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning_dynprune.engine.run import PruningRun
from lightning_dynprune.engine.state.components import (
    Component,
    JournalState,
    ProgressState,
    RewindState,
    TargetState,
    UnitState,
)
from lightning_dynprune.engine.state.state_format import VERSION, read_state, sealed


def save_run(run: PruningRun, beside: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state of a run: tensors and plain values, under a checksum.

    Args:
        run: what is pruned.
        beside: further entries.
    """
    # An interruption may have come between an optimizer's step and the masks, or before latent values were hidden.
    run.apply()
    state: dict[str, Any] = {"version": VERSION}
    for component in _components(run):
        state |= component.entries()
    return sealed({**state, **beside})


def load_run(run: PruningRun, state: Mapping[str, Any]) -> None:
    """Resume a run from a state; everything is checked before anything is changed.

    Args:
        run: newly built, or running.
        state: from :func:`save_run`, of this version or an earlier one that can be migrated.

    Raises:
        ValueError: the state is damaged, or belongs to other targets or parts.
    """
    state = read_state(state)
    components = _components(run)
    for component in components:
        component.check(state)
    for component in components:
        component.load(state)
    run.weights.reset()
    run.observer.resume()
    run.apply()


def _components(run: PruningRun) -> Sequence[Component]:
    """Return the components in the order in which they are loaded."""
    return JournalState(run), RewindState(run), TargetState(run), UnitState(run), ProgressState(run)
