"""Run inputs through networks of increasing width until one is confident."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_dynprune.adaptive.cascade import confidence, exits_taken
from lightning_dynprune.adaptive.forward_cut import batch_of, finite_inputs, part_of
from lightning_dynprune.adaptive.labelled import last_position
from lightning_dynprune.base import call_model


class NarrowNetwork(nn.Module):
    """A narrow network with the temperature of its confidence and its threshold.

    Args:
        network: takes the inputs of the whole network.
        temperature: by which its scores are divided.
        threshold: least confidence at which its scores are taken.
        number: of its way, as ``exits`` reports it.
    """

    def __init__(self, network: nn.Module, temperature: float, threshold: float, number: int) -> None:
        super().__init__()
        self.network, self.temperature, self.threshold, self.number = network, temperature, threshold, number

    def forward(self, inputs: Any) -> Tensor:
        """Return calibrated class scores, ``(n, classes)``."""
        scores: Tensor = last_position(call_model(self.network, inputs)) / self.temperature
        return scores


class CascadeRunner(nn.Module):
    """Runs networks from the narrowest to the whole one; an input goes on until one of them is confident.

    Args:
        networks: the narrow ones that inputs can take, in order.
        whole: the whole network.
        end: number of the whole network's way.

    Attributes:
        exits: way that each input of the last call took, int64 ``(n,)``.
    """

    exits: Tensor

    def __init__(self, networks: Sequence[NarrowNetwork], whole: nn.Module, end: int) -> None:
        super().__init__()
        self.networks, self.whole, self.end = nn.ModuleList(networks), whole, end
        self._narrow = list(networks)
        self.exits = torch.zeros(0, dtype=torch.int64)

    @torch.no_grad()
    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the class scores of each input, ``(n, classes)``, from the network that it took."""
        inputs = kwargs or args
        count = batch_of(inputs)
        finite = finite_inputs(inputs)
        self.exits = torch.full((count,), self.end, device=finite.device)
        left: Tensor | None = None  # all
        found: Tensor | None = None
        for network in self._narrow if count else ():
            scores: Tensor = network(inputs)
            leaves = confidence(scores) + finite >= network.threshold
            if not leaves.any():
                continue
            places = leaves.nonzero()[:, 0] if left is None else left[leaves]
            self.exits[places] = network.number
            if left is None and len(places) == count:
                return scores
            found = scores.new_zeros(count, scores.shape[1]) if found is None else found
            found[places] = scores[leaves]
            stays = (~leaves).nonzero()[:, 0]
            if not len(stays):
                return found
            left = stays if left is None else left[stays]
            inputs, finite = part_of(inputs, stays), finite[stays]
        scores = last_position(call_model(self.whole, inputs))
        if found is None or left is None:
            return scores
        found[left] = scores.to(found.dtype)
        return found


class FirstPassRunner(nn.Module):
    """Runs the narrowest network on all inputs; its confidence decides which network each input takes.

    Args:
        first: the narrowest network.
        networks: the narrow ones that inputs can take, in order; the narrowest may be among them.
        whole: the whole network.
        end: number of the whole network's way.

    Attributes:
        exits: way that each input of the last call took, int64 ``(n,)``.
    """

    exits: Tensor

    def __init__(self, first: NarrowNetwork, networks: Sequence[NarrowNetwork], whole: nn.Module, end: int) -> None:
        super().__init__()
        self.first, self.networks, self.whole, self.end = first, nn.ModuleList(networks), whole, end
        self._narrow = list(networks)
        self.exits = torch.zeros(0, dtype=torch.int64)

    @torch.no_grad()
    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the class scores of each input, ``(n, classes)``, from the network that it took."""
        inputs = kwargs or args
        count = batch_of(inputs)
        if not count:
            self.exits = torch.zeros(0, dtype=torch.int64)
            empty: Tensor = last_position(call_model(self.whole, inputs))
            return empty
        first: Tensor = self.first(inputs)
        sure = confidence(first) + finite_inputs(inputs)
        taken = exits_taken(sure.expand(len(self._narrow), -1), [network.threshold for network in self._narrow])
        numbers = torch.tensor([*(network.number for network in self._narrow), self.end], device=taken.device)
        self.exits = numbers[taken]
        found = torch.zeros_like(first)
        for position in sorted(set(taken.tolist())):
            chosen = (taken == position).nonzero()[:, 0]
            part = inputs if len(chosen) == count else part_of(inputs, chosen)
            scores: Tensor
            if position == len(self._narrow):
                scores = last_position(call_model(self.whole, part))
            elif self._narrow[position].number == self.first.number:
                scores = first[chosen]
            else:
                scores = self._narrow[position](part)
            if len(chosen) == count:
                return scores
            found[chosen] = scores.to(found.dtype)
        return found
