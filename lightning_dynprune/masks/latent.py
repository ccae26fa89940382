"""Latent weights: values behind the masks that keep training, stored beside the parameters."""

from __future__ import annotations

from enum import Enum

import torch
from torch import Tensor

from lightning_dynprune.base import integer_view
from lightning_dynprune.masks.layouts import integer_pieces
from lightning_dynprune.masks.mask_set import MaskSet

LATENT = "latent"


class _Place(Enum):
    """The place of a target's values: split by the mask, all in the parameter, or between the two.

    A move can be interrupted anywhere. Each value then is in at least one of the two places, and the other one holds
    the same value or zero bits, so that ``or`` recovers all of them.
    """

    SPLIT = "split"
    JOINED = "joined"
    EITHER = "either"


class LatentWeights:
    """Moves the values behind the masks into the parameters and out again, exactly.

    Between optimizer steps a parameter holds ``w * m`` and ``target.state["latent"]`` holds ``w * (1 - m)``. Their
    nonzero entries are disjoint, so :meth:`join` and :meth:`split` move bits without rounding.

    Beside the mask it takes as many bytes a connection as the parameter's dtype (4 for float32).

    Args:
        masks: the masks of the targets; call :meth:`allocate` before the first use.

    Source: the straight-through estimator, Bengio et al. (2013); masked weights with it, Guo et al. (2016).

    Example:
        >>> from torch import nn
        >>> from lightning_dynprune.targets import Target
        >>> target = Target("w", nn.Parameter(torch.tensor([1.0, -2.0, 3.0])))
        >>> masks = MaskSet([target])
        >>> latent = LatentWeights(masks)
        >>> latent.allocate()
        >>> latent.join(0)
        >>> _ = masks.write(0, [torch.tensor([True, False, True])])
        >>> latent.split(0)
        >>> target.parameter.tolist(), target.state["latent"].tolist()
        ([1.0, 0.0, 3.0], [0.0, -2.0, 0.0])
        >>> latent.join(0)
        >>> target.parameter.tolist()
        [1.0, -2.0, 3.0]
    """

    def __init__(self, masks: MaskSet) -> None:
        self._masks = masks
        self._place = [_Place.SPLIT] * len(masks.targets)

    def allocate(self) -> None:
        """Create the tensor for the values behind the mask of every target."""
        for target in self._masks.targets:
            target.state[LATENT] = torch.zeros_like(target.values)

    @torch.no_grad()
    def join(self, position: int) -> None:
        """Move the values behind the mask into the parameter; no-op if they are there already."""
        if self._place[position] is _Place.JOINED:
            return
        if self._place[position] is _Place.EITHER or not self._keeps_all(position):
            self._place[position] = _Place.EITHER
            hidden, visible = self._bits(position)
            visible.bitwise_or_(hidden)
        self._place[position] = _Place.JOINED

    @torch.no_grad()
    def split(self, position: int) -> None:
        """Move the values behind the mask out of the parameter, which then holds ``w * m``; no-op if it does."""
        if self._place[position] is _Place.SPLIT:
            return
        if self._place[position] is _Place.EITHER:  # after an interruption
            self.join(position)
        hidden, visible = self._bits(position)
        if self._keeps_all(position):
            hidden.zero_()
        else:
            hidden.copy_(visible)
            self._place[position] = _Place.EITHER
            for values, mask in integer_pieces(visible, self._masks.tensors[position]):
                values.mul_(mask)
            hidden.bitwise_xor_(visible)
        self._place[position] = _Place.SPLIT

    def mark_split(self) -> None:
        """Record that the parameters hold ``w * m``, as they do after a checkpoint is loaded."""
        self._place = [_Place.SPLIT] * len(self._place)

    def _keeps_all(self, position: int) -> bool:
        return self._masks.kept[position] == self._masks.targets[position].numel

    def _bits(self, position: int) -> tuple[Tensor, Tensor]:
        target = self._masks.targets[position]
        return integer_view(target.state[LATENT]), integer_view(target.values)
