"""The units that an update keeps or prunes: inside single targets, or coupled over several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from lightning_dynprune.engine.updates.mask_update import Changes, MaskChanged, UpdateRequest, update_masks
from lightning_dynprune.engine.updates.min_kept import MinKept, least_kept
from lightning_dynprune.masks import MaskSet
from lightning_dynprune.patterns import Pattern, TargetPattern
from lightning_dynprune.targets import TargetView


class Units(Protocol):
    """Decides which units of a pattern are kept, and writes the masks that follow."""

    @property
    def largest(self) -> int:
        """Connections of the largest unit."""

    def min_kept(self) -> list[MinKept]:
        """Return what every target or group has to keep."""

    def check_ready(self) -> None:
        """Raise where the units are not known yet.

        Raises:
            RuntimeError: an example input is needed first.
        """

    def update_masks(
        self, views: Sequence[TargetView], request: UpdateRequest, mask_changed: MaskChanged, remember: bool
    ) -> Changes:
        """Write new masks.

        Args:
            views: of the targets.
            request: the parts and the sparsity to reach.
            mask_changed: called for every target once its mask is written, with its position and the mask before.
            remember: pass the mask before even where connections are only pruned.

        Raises:
            NonFiniteError: a score is not finite; masks are as before.
        """

    def savepoint(self) -> Any:
        """Return what an update changes outside the targets, for :meth:`restore`."""

    def restore(self, savepoint: Any) -> None:
        """Go back to a :meth:`savepoint`."""

    def clear_slots(self) -> None:
        """Clear the optimizers' slots of what belongs to pruned units, outside the targets."""

    def apply(self) -> None:
        """Set what belongs to pruned units, outside the targets, to zero."""

    def mask_gradients(self) -> None:
        """Set the gradients of what belongs to pruned units, outside the targets, to zero."""

    def follow_masks(self) -> None:
        """Follow masks that were written by other means, as from a checkpoint."""

    def state_dict(self) -> dict[str, Tensor] | None:
        """Return what a checkpoint keeps beside the masks; None if nothing."""

    def check_state_dict(self, state: Mapping[str, Tensor] | None) -> None:
        """Raise where a :meth:`state_dict` belongs to other units.

        Raises:
            ValueError: naming a tensor that differs.
        """

    def load_state_dict(self, state: Mapping[str, Tensor] | None) -> None:
        """Resume from a :meth:`state_dict`, once the masks are loaded."""


class TargetUnits:
    """Units that lie in one target each: connections, blocks, or N of M.

    Args:
        masks: of the targets.
        pattern: the unit.
    """

    def __init__(self, masks: MaskSet, pattern: TargetPattern) -> None:
        self._masks, self._pattern = masks, pattern

    @property
    def largest(self) -> int:
        """Connections of the largest unit."""
        return max(map(self._pattern.unit_size, self._masks.targets))

    def min_kept(self) -> list[MinKept]:
        """Return what every target has to keep."""
        return [
            MinKept(t.name, t.min_kept, least_kept(t, self._pattern), kept, f"{t.numel} connections")
            for t, kept in zip(self._masks.targets, self._masks.kept, strict=True)
        ]

    def check_ready(self) -> None:
        """Do nothing: these units need no example input."""

    def update_masks(
        self, views: Sequence[TargetView], request: UpdateRequest, mask_changed: MaskChanged, remember: bool
    ) -> Changes:
        """Write new masks, see :func:`~lightning_dynprune.engine.updates.mask_update.update_masks`."""
        return update_masks(self._masks, views, self._pattern, request, mask_changed, remember)

    def savepoint(self) -> None:
        """Return None: an update changes nothing outside the targets."""

    def restore(self, savepoint: None) -> None:
        """Do nothing."""

    def clear_slots(self) -> None:
        """Do nothing: these units lie in the targets alone."""

    def apply(self) -> None:
        """Do nothing: these units lie in the targets alone."""

    def mask_gradients(self) -> None:
        """Do nothing: these units lie in the targets alone."""

    def follow_masks(self) -> None:
        """Do nothing: the masks say it all."""

    def state_dict(self) -> None:
        """Return None: the masks say it all."""

    def check_state_dict(self, state: Mapping[str, Tensor] | None) -> None:
        """Do nothing."""

    def load_state_dict(self, state: Mapping[str, Tensor] | None) -> None:
        """Do nothing."""


class UncoupledUnits:
    """Stands for units over several targets until an example input has been followed through the model.

    Args:
        masks: of the targets.
        pattern: the unit.
    """

    def __init__(self, masks: MaskSet, pattern: Pattern) -> None:
        self._masks, self._pattern = masks, pattern
        self._loaded: dict[str, Tensor] | None = None

    @property
    def largest(self) -> int:
        """Connections of a unit, as far as the pattern knows."""
        return self._pattern.size

    def min_kept(self) -> list[MinKept]:
        """Return nothing: the groups are not known yet."""
        return []

    def check_ready(self) -> None:
        """Raise, as there was no example input.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError(
            f"pattern {self._pattern.label} follows an example input through the model, and there is none; give "
            "Pruner(..., example_input=...) or call pruner.couple(example_input) before the first update"
        )

    def update_masks(
        self, views: Sequence[TargetView], request: UpdateRequest, mask_changed: MaskChanged, remember: bool
    ) -> Changes:
        """Raise, as there was no example input.

        Raises:
            RuntimeError: always.
        """
        self.check_ready()
        return Changes([], [], [])

    def savepoint(self) -> None:
        """Return None: an update changes nothing outside the targets."""

    def restore(self, savepoint: None) -> None:
        """Do nothing."""

    def clear_slots(self) -> None:
        """Do nothing: nothing is pruned yet."""

    def apply(self) -> None:
        """Do nothing: nothing is pruned yet."""

    def mask_gradients(self) -> None:
        """Do nothing: nothing is pruned yet."""

    def follow_masks(self) -> None:
        """Do nothing: the groups follow the masks once they are known."""

    def state_dict(self) -> dict[str, Tensor] | None:
        """Return the state that was loaded."""
        return self._loaded

    def check_state_dict(self, state: Mapping[str, Tensor] | None) -> None:
        """Do nothing: the state is checked once the groups are known."""

    def load_state_dict(self, state: Mapping[str, Tensor] | None) -> None:
        """Keep the state until the groups are known."""
        self._loaded = None if state is None else dict(state)
