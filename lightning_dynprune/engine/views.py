"""The views of the targets that a strategy reads."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch.optim import Optimizer

from lightning_dynprune.engine.gradients import GradientSnapshot
from lightning_dynprune.engine.progress import Progress
from lightning_dynprune.masks import MaskSet, squared_gradients
from lightning_dynprune.strategies import Strategy
from lightning_dynprune.targets import Target, TargetView


class TargetViews:
    """Makes the views of the targets that a strategy reads: values, gradients, masks and seeds.

    Args:
        masks: of the targets.
        strategy: reads gradients where it declares ``needs_gradients``.
        snapshot: the gradients that an update reads.
        progress: counts steps and updates.
        optimizers: whose running averages of squared gradients are read where it declares ``needs_squared_gradients``.
        seed: of random strategies.

    Attributes:
        seed: of random strategies.
    """

    def __init__(
        self,
        masks: MaskSet,
        strategy: Strategy,
        snapshot: GradientSnapshot,
        progress: Progress,
        optimizers: Sequence[Optimizer],
        seed: int,
    ) -> None:
        self._masks, self._snapshot, self._progress = masks, snapshot, progress
        self._needs_gradients = strategy.needs_gradients
        self._optimizers = optimizers if strategy.needs_squared_gradients else ()
        self.seed = seed
        self._seeded: tuple[int, int] | None = None
        self._seeds: list[tuple[int, int]] = []

    def of(self, position: int) -> TargetView:
        """Return the view of the target at a position."""
        seed, run_seed = self._seeds_of(position)
        mask = self._masks.tensors[position]
        view = self._masks.targets[position].view(mask, seed, run_seed, self._progress.clock.step)
        if self._needs_gradients:
            view.grad = self._snapshot.of(position)
        elif view.grad is not None and view.grad.layout != torch.strided:
            view.grad = None
        if self._optimizers:
            view.squared_gradients = squared_gradients(self._optimizers, self._masks.targets[position].parameter)
        return view

    def all(self) -> list[TargetView]:
        """Return the view of every target."""
        return [self.of(position) for position in range(len(self._masks.targets))]

    def _seeds_of(self, position: int) -> tuple[int, int]:
        """Return a target's seed for the next update and its seed for the run; cached, as every step reads them."""
        if self._seeded != (self.seed, self._progress.updates):
            self._seeds = [(self._seed(t, self._progress.updates), self._seed(t, 0)) for t in self._masks.targets]
            self._seeded = self.seed, self._progress.updates
        return self._seeds[position]

    def _seed(self, target: Target, updates: int) -> int:
        """Return 62 bits for this run, update and target, the same on every rank and machine."""
        text = f"{self.seed}/{updates}/{target.name}".encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 2
