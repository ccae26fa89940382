"""Which channels can only be removed together: a union-find over the output channels of all layers."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

# The mixture of nothing: values whose width does not change.
FIXED = -1


class ChannelUnits:
    """Sets of channels that can only be removed together, and the channels that cannot be removed.

    Each output channel of each layer has a number of at least 0. Negative numbers are *mixtures*: values that depend on
    several channels at once, or on none, and whose position does not go when a channel goes.

    Args:
        count: number of channels.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._root = torch.arange(count)
        self._mixtures: list[tuple[Tensor, str, bool]] = [(torch.empty(0, dtype=torch.int64), "constants", False)]
        self._retained: list[tuple[Tensor, str]] = []

    def find(self, numbers: Tensor) -> Tensor:
        """Return the smallest number of the set that each channel belongs to; mixtures remain as they are."""
        return torch.where(numbers < 0, numbers, self._root[numbers.clamp(min=0)]) if len(self._root) else numbers

    def union(self, first: Tensor, second: Tensor) -> None:
        """Merge the sets of channels pairwise; both tensors hold as many numbers, none of them a mixture."""
        first, second = self._root[first.flatten()], self._root[second.flatten()]
        while not torch.equal(first, second):
            low, high = torch.minimum(first, second), torch.maximum(first, second)
            self._root.scatter_reduce_(0, high, low, "amin")
            while not torch.equal(shorter := self._root[self._root], self._root):
                self._root = shorter
            first, second = self._root[low], self._root[high]

    def mixture(self, numbers: Iterable[Tensor], origin: str, mixes: bool = True) -> int:
        """Return the number of a mixture of channels and other mixtures.

        Args:
            numbers: numbers of what is mixed.
            origin: where the values come from, for messages: "Softmax 'middle' (_softmax)", "the model's inputs".
            mixes: whether the origin mixes them, rather than being them.
        """
        found = [number.flatten() for number in numbers]
        every = torch.unique(torch.cat(found)) if found else torch.empty(0, dtype=torch.int64)
        mixed = [int(number) for number in every[every < 0]]
        if len(every) == len(mixed) == 1:
            return mixed[0]
        channels = torch.unique(torch.cat([every[every >= 0], *(self._mixtures[-1 - number][0] for number in mixed)]))
        if not len(channels) and mixed:
            return mixed[0]
        self._mixtures.append((channels, origin, mixes))
        return -len(self._mixtures)

    def origin(self, mixture: int) -> str:
        """Return what the values of a mixture are."""
        _, origin, mixes = self._mixtures[-1 - mixture]
        return f"what {origin} mixes" if mixes else origin

    def retain(self, numbers: Tensor, reason: str) -> None:
        """Note why channels cannot be removed; the first reason counts. Of a mixture no channel can be."""
        channels = numbers[numbers >= 0]
        if len(channels):
            self._retained.append((channels.flatten(), reason))
        for number in torch.unique(numbers[numbers < 0]).tolist():
            mixed, origin, _ = self._mixtures[-1 - number]
            if len(mixed):
                self._retained.append((mixed, f"{origin} mixes them with one another"))

    def retained(self) -> dict[int, str]:
        """Return for each set that cannot be removed, by its smallest number, the first reason."""
        reasons: dict[int, str] = {}
        for channels, reason in self._retained:
            for root in torch.unique(self._root[channels]).tolist():
                reasons.setdefault(root, reason)
        return reasons
