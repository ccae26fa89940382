"""Inputs of the targets' layers, captured for strategies that read them and for the refit of kept weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from lightning_dynprune.calibration import Hessians, InputCapture, with_progress
from lightning_dynprune.distributed import Ranks
from lightning_dynprune.masks import MaskSet
from lightning_dynprune.strategies import Strategy
from lightning_dynprune.targets import TargetView


class Calibrator:
    """Captures the inputs of the targets' layers, for the strategy and for the refit of kept weights.

    Args:
        model: the network.
        masks: of its targets.
        strategy: reads inputs where it declares ``needs_activations``.
        view: returns the view of the target at a position.
        reconstruct: collect what :meth:`refit` needs.
        hold_errors: makes the block in which inputs of a training step are captured, which holds its errors.
    """

    def __init__(
        self,
        model: nn.Module,
        masks: MaskSet,
        strategy: Strategy,
        view: Callable[[int], TargetView],
        reconstruct: bool,
        hold_errors: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self.model, self.masks, self.strategy = model, masks, strategy
        self._view, self._hold_errors = view, hold_errors
        self._hessians = Hessians(masks.targets) if reconstruct else None
        self._inputs: InputCapture | None = None

    @property
    def is_needed(self) -> bool:
        """Whether an update reads inputs of layers."""
        return self.strategy.needs_activations or self._hessians is not None

    def run(self, batches: Iterable[Any], forward: Callable[[Any], Any] | None, progress: bool = False) -> None:
        """Run batches forward in evaluation mode and capture the inputs of layers.

        Args:
            batches: each is an argument of ``forward``.
            forward: runs one batch; None: the model itself, which gets a mapping as keyword arguments.
            progress: show a progress bar once it takes longer than a moment.

        Raises:
            ValueError: no setting reads inputs, or the inputs of a target's module cannot be captured.
        """
        if not self.is_needed:
            raise ValueError(
                f"strategy={type(self.strategy).__name__} without reconstruct reads no inputs, so there is nothing to "
                "calibrate; leave the calibration out, or give strategy='wanda' or reconstruct=True"
            )
        modes = {module: module.training for module in self.model.modules()}
        self.model.eval()
        self._start(self._capture)
        try:
            for batch in with_progress(batches) if progress else batches:
                if forward is not None:
                    forward(batch)
                elif isinstance(batch, Mapping):
                    self.model(**batch)
                else:
                    self.model(batch)
        finally:
            self.stop_capture()
            for module, mode in modes.items():
                module.training = mode

    def start_capture(self) -> None:
        """Capture the inputs of training steps from now on."""
        self._start(self._capture_in_step)

    def _start(self, capture: Callable[[int, Tensor], None]) -> None:
        if self._inputs is None:
            self._inputs = InputCapture(self.model, self.masks.targets, capture)
            self._inputs.__enter__()

    def stop_capture(self) -> None:
        """Capture no more inputs; hooks are removed."""
        if self._inputs is not None:
            self._inputs.__exit__(None, None, None)
            self._inputs = None

    @torch.no_grad()
    def sum_ranks(self, ranks: Ranks) -> None:
        """Add up the statistics that all processes made of their inputs."""
        if ranks.size == 1 or not self.is_needed:
            return
        for position, target in enumerate(self.masks.targets):
            for key in self.strategy.summed_state:
                target.state[key].copy_(ranks.sum(target.state[key]))
            if self._hessians is not None:
                self._hessians.sum_over_ranks(position, ranks)

    @property
    def refits(self) -> bool:
        """Whether an update refits the weights that stay."""
        return self._hessians is not None

    def check(self) -> None:
        """Raise where :meth:`refit` lacks inputs.

        Raises:
            RuntimeError: no inputs of a target were captured.
            NonFiniteError: inputs of a target are NaN or infinite.
        """
        if self._hessians is not None:
            self._hessians.check()

    @torch.no_grad()
    def refit(self, position: int) -> None:
        """Refit the kept weights of a target to its layer's output, if ``reconstruct`` is set."""
        if self._hessians is not None:
            weight, mask = self.masks.targets[position].parameter, self.masks.tensors[position]
            weight.copy_(torch.where(mask, self._hessians.refit(position, weight.detach(), mask), weight))

    def forget(self) -> None:
        """Discard the inputs captured so far, so that the next update reads new ones."""
        if self._hessians is not None:
            self._hessians.clear()
        if self.strategy.needs_activations:
            for target in self.masks.targets:
                target.state.update(self.strategy.init_state(target))

    @torch.no_grad()
    def _capture(self, position: int, rows: Tensor) -> None:
        if self.strategy.needs_activations:
            self.strategy.observe_inputs(self._view(position), rows)
        if self._hessians is not None:
            self._hessians.accumulate(position, rows)

    def _capture_in_step(self, position: int, rows: Tensor) -> None:
        with self._hold_errors():
            self._capture(position, rows)
