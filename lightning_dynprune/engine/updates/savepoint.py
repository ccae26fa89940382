"""Savepoints, which make an update whole or undo it, whatever is raised in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_dynprune.masks import pack_bits, unpack_bits

if TYPE_CHECKING:
    from lightning_dynprune.engine.run import PruningRun


class Savepoint:
    """A copy of the masks of a run, and of all else that an update changes before it is certain to succeed.

    It takes one bit a connection; with ``reconstruct``, whose refit overwrites weights, a copy of the targets besides.

    Args:
        run: whose pruned entries are zero.
    """

    def __init__(self, run: PruningRun) -> None:
        self._run = run
        self._packed = [pack_bits(mask) for mask in run.masks.tensors]
        self._kept = list(run.masks.kept)
        targets = run.masks.targets
        self._memory = [{key: value.clone() for key, value in target.memory.items()} for target in targets]
        self._weights = [target.values.clone() for target in targets] if run.calibrator.refits else []
        self._units = run.units.savepoint()

    def mask(self, position: int) -> Tensor:
        """Return the mask of a target as it was: bool, shaped like the part of the target that is here."""
        mask = self._run.masks.tensors[position]
        name = self._run.masks.targets[position].name
        return unpack_bits(self._packed[position], mask.numel(), name).view(mask.shape).to(mask.device)

    @torch.no_grad()
    def restore(self) -> None:
        """Go back: masks, weights, the memory of thresholds and the values beside the targets are as they were."""
        masks = self._run.masks
        for position, mask in enumerate(masks.tensors):
            mask.copy_(self.mask(position))
        masks.kept = list(self._kept)
        for target, memory in zip(masks.targets, self._memory, strict=True):
            for key, value in memory.items():
                target.memory[key].copy_(value)
        for target, values in zip(masks.targets, self._weights, strict=False):
            target.values.copy_(values)
        self._run.units.restore(self._units)
        self._run.apply()


def finish(steps: Sequence[Callable[[], object]]) -> None:
    """Run all steps; if one is interrupted, run all of them again before the exception goes on.

    Args:
        steps: each may be run twice, in part or whole, to the same result.

    Example:
        >>> done = set()
        >>> finish([lambda: done.add("weights"), lambda: 1 / 0, lambda: done.add("journal")])
        Traceback (most recent call last):
        ZeroDivisionError: division by zero
        >>> sorted(done)
        ['journal', 'weights']
    """
    try:
        for step in steps:
            step()
    except BaseException:
        for step in steps:
            with suppress(Exception):
                step()
        raise
