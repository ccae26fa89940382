"""The values of the targets around an optimizer step: hard zeros, or latent weights that keep training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from torch import Tensor
from torch.optim import Optimizer

from lightning_dynprune.masks import LatentWeights, MaskSet, reset_slots


class Weights(Protocol):
    """Sets pruned entries to zero, and decides what happens to the values behind the mask."""

    @property
    def all_train(self) -> bool:
        """Whether pruned connections keep training, so that their gradients are left as they are."""

    def apply(self) -> None:
        """Set the pruned entries of every target to zero, in place; no host sync."""

    def reveal(self, positions: Iterable[int]) -> None:
        """Bring the values behind the masks of these targets back into the parameters."""

    def hide(self, positions: Iterable[int]) -> None:
        """Take the values behind the masks of these targets out of the parameters."""

    def mask_changed(self, position: int, before: Tensor | None) -> None:
        """Follow a mask that has been written.

        Args:
            position: of the target.
            before: the mask it replaces; None where connections were only pruned.
        """

    def reset(self) -> None:
        """Assume that the parameters hold zeros where their masks are False, as in a checkpoint."""


class HardWeights:
    """Weights whose pruned entries are zero in the parameter itself.

    Args:
        masks: of the targets.
        optimizers: whose slots are cleared at pruned entries.
    """

    all_train = False

    def __init__(self, masks: MaskSet, optimizers: Sequence[Optimizer]) -> None:
        self._masks, self._optimizers = masks, optimizers

    def apply(self) -> None:
        """Set pruned entries to zero."""
        self._masks.apply()

    def reveal(self, positions: Iterable[int]) -> None:
        """Do nothing: there are no values behind the masks."""

    def hide(self, positions: Iterable[int]) -> None:
        """Do nothing: there are no values behind the masks."""

    def mask_changed(self, position: int, before: Tensor | None) -> None:
        """Clear the optimizers' slots at entries that are pruned or have just returned."""
        after = self._masks.tensors[position]
        parameter = self._masks.targets[position].parameter
        reset_slots(self._optimizers, parameter, after if before is None else before & after)

    def reset(self) -> None:
        """Do nothing."""


class SplitWeights:
    """Weights whose pruned entries wait in a second tensor between steps and train with the rest.

    Args:
        masks: of the targets, each of which gets a tensor for its latent values.
    """

    all_train = True

    def __init__(self, masks: MaskSet) -> None:
        self._every = range(len(masks.targets))
        self._latent = LatentWeights(masks)
        self._latent.allocate()

    def apply(self) -> None:
        """Take all values behind the masks out of the parameters."""
        self.hide(self._every)

    def reveal(self, positions: Iterable[int]) -> None:
        """Bring the values behind the masks of these targets back into the parameters."""
        for position in positions:
            self._latent.join(position)

    def hide(self, positions: Iterable[int]) -> None:
        """Take the values behind the masks of these targets out of the parameters."""
        for position in positions:
            self._latent.split(position)

    def mask_changed(self, position: int, before: Tensor | None) -> None:
        """Do nothing: every entry trains, so the optimizers' slots stay."""

    def reset(self) -> None:
        """Assume that the parameters hold zeros where their masks are False."""
        self._latent.mark_split()
