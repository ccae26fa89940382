"""Ranks in threads of one process, for tests of what ranks make of the tensors that they exchange."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import torch
from torch import Tensor

from lightning_dynprune.distributed import Ranks

_TIMEOUT = 60.0


class ThreadRanks(Ranks):
    """One of several ranks in threads, which exchange tensors through a list that they share."""

    def __init__(self, rank: int, shared: list[Any], barrier: Barrier) -> None:
        self.group, self.device, self.size, self.rank = None, torch.device("cpu"), len(shared), rank
        self._shared, self._barrier = shared, barrier
        self.messages = 0

    def gather(self, tensor: Tensor) -> list[Tensor]:
        self._shared[self.rank] = tensor.clone()
        self._barrier.wait(_TIMEOUT)
        received = [other.clone() for other in self._shared]
        self._barrier.wait(_TIMEOUT)
        assert all(other.shape == tensor.shape and other.dtype == tensor.dtype for other in received)
        self.messages += 1
        return received

    def sum(self, tensor: Tensor) -> Tensor:
        return torch.stack(self.gather(tensor)).sum(0)


def in_threads(size: int, function: Callable[[ThreadRanks], Any]) -> list[Any]:
    """Return what ``function`` returns for each of ``size`` ranks; a rank that raises returns its exception."""
    shared: list[Any] = [None] * size
    barrier = Barrier(size)

    def called(rank: int) -> Any:
        try:
            return function(ThreadRanks(rank, shared, barrier))
        except Exception as error:
            return error

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(called, range(size)))
