"""The check that processes do not train inside torch's ``Join``, for uneven batches."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from lightning_dynprune.distributed.compat import data_parallel_wrappers, is_joining
from lightning_dynprune.distributed.ranks import Ranks


class JoinCheck:
    """Refuses training inside ``join()``, where a process that has run out of batches takes part in no update.

    Args:
        parameter: one that is trained.
        optimizers: train it.
        ranks: the processes.
    """

    def __init__(self, parameter: nn.Parameter, optimizers: Sequence[Optimizer], ranks: Ranks) -> None:
        self._parameter, self._has_others = parameter, ranks.size > 1
        self._joinables: list[weakref.ref[Any]] = [weakref.ref(optimizer) for optimizer in optimizers]
        self._is_complete = False

    def __getstate__(self) -> dict[str, Any]:
        """Return the state of a copy, which looks for its own wrappers."""
        return {**vars(self), "_joinables": [], "_is_complete": False}

    def check(self) -> None:
        """Raise if the wrapper of the model, or an optimizer, is inside ``join()``; no message, no host sync.

        Raises:
            RuntimeError: naming it, and what to do.
        """
        if not self._has_others:
            return
        if not self._is_complete:  # once a step is done the model is wrapped, if it ever is
            self._joinables += [weakref.ref(wrapper) for wrapper in data_parallel_wrappers(self._parameter)]
            self._is_complete = True
        for reference in self._joinables:
            if is_joining(joinable := reference()):
                raise RuntimeError(
                    f"join() of {type(joinable).__name__}, for uneven batches, does not go with pruning: a process "
                    "that has run out of batches takes no part in an update of the masks, for which the others would "
                    "wait. Leave join() out and give every process the same number of batches: DistributedSampler "
                    "does, or drop_last=True"
                )
