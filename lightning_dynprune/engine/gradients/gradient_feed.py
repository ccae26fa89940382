"""Gradients around an optimizer step: observed, kept and masked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.optim import LBFGS, Optimizer

from lightning_dynprune.engine.gradients.optimizer_hooks import OptimizerHooks
from lightning_dynprune.journal import Update

if TYPE_CHECKING:
    from lightning_dynprune.engine.run import PruningRun


class GradientFeed:
    """Feeds the gradients of each optimizer step to the strategy, and keeps those that the next update reads.

    Args:
        run: what is pruned.
        start: makes the update that comes before the first step, if it is due.

    Attributes:
        waits_for_all: an update reads the last gradients of each of several optimizers, so it waits until all have
            stepped. Stepped by hand, each has gradients of its own, which the backward pass for the next may add to or
            zero.
    """

    def __init__(self, run: PruningRun, start: Callable[[], Update | None]) -> None:
        self._run, self._start = run, start
        self._optimizers, self._trained_by = run.plan.optimizers, run.plan.trained_by
        self._reads_last_gradients = run.plan.reads_last_gradients
        self._are_masked = False
        self._overflow: Tensor | None = None
        watched = run.plan.training_optimizers
        self.waits_for_all = self._reads_last_gradients and len(watched) > 1
        self._hooks = OptimizerHooks(watched if run.plan.needs_hooks else (), self._before_step, self._after_step)

    def is_waiting(self) -> bool:
        """Return whether an update is due that has to wait for gradients."""
        if not self._reads_last_gradients or not self._run.progress.updates_next():
            return False
        if not self.waits_for_all:
            return self._overflows()
        return not self._run.snapshot.is_complete

    @torch.no_grad()
    def mask(self, ending_epoch: bool = False, optimizer: Optimizer | None = None) -> None:
        """Set the gradients of pruned connections to zero; an update after this step reads them as they were.

        Args:
            ending_epoch: the current step is the last of its epoch.
            optimizer: whose targets alone are meant; None: all targets.
        """
        run = self._run
        if run.weights.all_train:
            return
        self._are_masked = True
        is_read = run.plan.strategy.needs_gradients and run.progress.updates_next(ending_epoch)
        everything: Sequence[int] = range(len(run.masks.targets))
        for position in everything if optimizer is None else self._trained_by[self._optimizers.index(optimizer)]:
            target = run.masks.targets[position]
            grad = target.grad
            run.snapshot.drop(position)
            if grad is None:
                continue
            if is_read:  # of every target, so that all are compared as they were before the clipping
                run.snapshot.keep(position)
            if run.masks.kept[position] < target.numel:
                run.masks.zero_pruned(position, grad)
        run.units.mask_gradients()

    def close(self) -> None:
        """Remove the hooks from the optimizers."""
        self._hooks.close()

    @torch.no_grad()
    def _before_step(self, optimizer: Optimizer) -> None:
        run, number = self._run, self._optimizers.index(optimizer)
        if run.weights.all_train:  # bits of latent weights would be moved into tensors that they do not fit
            run.check_attached()
        run.weights.reveal(self._trained_by[number])
        with run.hold_errors():
            run.observer.before_step(number)
        self._overflow = getattr(optimizer, "found_inf", None)
        if self.waits_for_all and run.progress.updates_next(ending_epoch=True) and not self._overflows():
            run.snapshot.add_step(number, keep=not self._are_masked)
        if not self.is_waiting() and self._start() is not None:
            run.weights.reveal(self._trained_by[number])
        # LBFGS evaluates the loss between its steps and uses curvature; pruned entries may have no part in either.
        if isinstance(optimizer, LBFGS) and not self._are_masked:
            self.mask(ending_epoch=True, optimizer=optimizer)

    def _after_step(self, optimizer: Optimizer) -> None:
        self._are_masked = False
        self._run.weights.hide(self._trained_by[self._optimizers.index(optimizer)])

    def _overflows(self) -> bool:
        """Return whether a fused optimizer skips this step because its gradients overflowed; may be a host sync."""
        return self._overflow is not None and bool(self._overflow)
