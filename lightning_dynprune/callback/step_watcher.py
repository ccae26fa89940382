"""Hooks on optimizer steps and on gradient clipping: they tick the pruner and count skipped steps."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from lightning.pytorch import Callback, Trainer
from torch.optim import Optimizer

from lightning_dynprune.callback.clipping import Handle, before_clipping
from lightning_dynprune.callback.compat import is_set_aside
from lightning_dynprune.engine import Pruner
from lightning_dynprune.masks import optimizer_holds
from lightning_dynprune.targets import unwrapped_optimizers


class StepWatcher:
    """Calls a function after each optimizer step of a fit, or once all optimizers of a batch have stepped.

    A copy keeps the count of skipped steps, and is not attached to the Trainer.

    Attributes:
        clock: the optimizer whose steps are counted: the first that holds a target; None before :meth:`attach`.
        skipped_steps: steps that a gradient scaler skipped, as their gradients were not finite.
    """

    def __init__(self) -> None:
        self.clock: Optimizer | None = None
        self.skipped_steps = 0
        self._tick: Callable[[], None] | None = None
        self._watched: list[Optimizer] = []
        self._handles: list[Handle] = []
        # The clock has stepped, and its tick waits for the other optimizers to step in the same batch.
        self._tick_is_pending = False
        self._expects_step = False

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "clock": None, "_watched": [], "_tick": None, "_handles": []}

    @property
    def is_attached(self) -> bool:
        """Whether a fit is running."""
        return bool(self._handles)

    def attach(self, trainer: Trainer, pruner: Pruner, owner: Callback, tick: Callable[[], None]) -> None:
        """Watch the steps of every optimizer that holds a target, and its clipping if the Trainer does not clip.

        Args:
            trainer: with its optimizers.
            pruner: of the fit.
            owner: the callback; steps that are made while it is set aside only keep pruned entries at zero.
            tick: called once for each step of the clock.

        Raises:
            ValueError: no optimizer holds a target.
        """
        parameters = {target.parameter for target in pruner.targets}
        watched = [optimizer for optimizer in trainer.optimizers if optimizer_holds(optimizer, parameters)]
        if not watched:
            raise ValueError(
                f"no optimizer of this Trainer holds a target ({pruner.targets[0].name}, ...); "
                "give targets that are trained"
            )
        self.detach()
        self.clock, self._tick, self._tick_is_pending = watched[0], tick, False
        self._watched = watched
        on_step = partial(self._on_step, trainer, pruner, owner)
        self._handles = [optimizer.register_step_post_hook(on_step) for optimizer in watched]
        # Where the Trainer clips, on_before_optimizer_step comes first; it does not where a module clips by itself.
        if not trainer.gradient_clip_val:
            mask_gradients = partial(_mask_gradients, trainer, pruner, watched)
            self._handles.append(before_clipping(trainer.precision_plugin, mask_gradients))

    def detach(self) -> None:
        """Remove all hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._watched, self._tick = [], None

    def expect_step(self, optimizer: Optimizer) -> None:
        """Note that a step follows, unless a gradient scaler skips it.

        Args:
            optimizer: that is about to step.
        """
        self._expects_step = self._expects_step or optimizer is self.clock

    def check_optimizers(self, trainer: Trainer) -> None:
        """Raise where an optimizer whose steps are watched is no optimizer of the Trainer any more.

        Raises:
            RuntimeError: naming the optimizer.
        """
        for optimizer in self._watched:
            if not any(optimizer is one for one in trainer.optimizers):
                raise RuntimeError(
                    f"{type(optimizer).__name__}, which trains targets, was taken out of Trainer.optimizers during the "
                    "fit, so that its steps, by which the pruning counts, have ended. Return all optimizers from "
                    "configure_optimizers, or replace one between two fits: a second fit keeps the masks"
                )

    def end_batch(self) -> bool:
        """Tick if that waited for other optimizers, and return whether a scaler skipped the step of this batch."""
        if self._tick_is_pending:
            self._make_tick()
        was_skipped, self._expects_step = self._expects_step, False
        self.skipped_steps += was_skipped
        return was_skipped

    def _on_step(
        self, trainer: Trainer, pruner: Pruner, owner: Callback, optimizer: Optimizer, args: Any, kwargs: Any
    ) -> None:
        is_clock = optimizer is self.clock
        self._expects_step = self._expects_step and not is_clock
        if is_set_aside(trainer, owner):
            pruner.apply()
            return
        if is_clock and self._tick_is_pending:
            self._make_tick()
        if not is_clock or pruner.waits_for_all_optimizers:
            self._tick_is_pending = self._tick_is_pending or is_clock
            pruner.apply()
        else:
            self._make_tick()

    def _make_tick(self) -> None:
        assert self._tick is not None  # hooks exist only while attached
        self._tick_is_pending = False
        self._tick()


def _mask_gradients(trainer: Trainer, pruner: Pruner, watched: list[Optimizer], optimizer: Optimizer) -> None:
    """Leave gradients of pruned connections out of a norm that is about to be clipped."""
    (bare,) = unwrapped_optimizers(optimizer)  # a LightningOptimizer in manual optimization
    if any(bare is one for one in watched):
        pruner.mask_gradients(trainer.is_last_batch, bare)
