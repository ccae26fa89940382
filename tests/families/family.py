"""A family of public networks: how to build a tiny one, what it is fed, and what it loses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Family:
    """A family of networks that is slimmed in every way.

    Attributes:
        name: as the table in the documentation calls it.
        build: makes the network; the same weights each time.
        batch: arguments of the forward, by name.
        loss: of the network's outputs and the batch.
        generate: arguments of ``generate``; None where the network generates nothing.
        sparsity: pattern -> sparsity to end at; the patterns it is pruned by.
        settings: pattern -> further settings of the pruning.
        note: what a user should know; goes into the table.
    """

    name: str
    build: Callable[[], nn.Module]
    batch: Mapping[str, Tensor]
    loss: Callable[[Any, Mapping[str, Tensor]], Tensor]
    generate: Mapping[str, Any] | None = None
    sparsity: Mapping[str, float] = field(default_factory=lambda: {"channel": 0.3})
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    note: str = ""
