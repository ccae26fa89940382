"""Weights back to what they were early in training, as lottery tickets are drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class Rewind:
    """Keeps a copy of a model as it was after one step, and puts it back.

    All parameters and buffers are kept (one more copy of the model, in memory and in checkpoints) and put back; the
    optimizers' slots are emptied. The learning-rate schedule and the clock go on.

    Args:
        model: the network.
        step: optimizer steps after which the copy is taken; 0 is the initial network.

    Source: Frankle et al., "Linear Mode Connectivity and the Lottery Ticket Hypothesis" (2020), section 2.

    Example:
        >>> net = nn.Linear(1, 1)
        >>> rewind = Rewind(net, step=2)
        >>> rewind.keep(step=2)
        >>> early = net.weight.item()
        >>> _ = net.weight.data.fill_(7.0)
        >>> rewind.back([])
        >>> net.weight.item() == early
        True
    """

    def __init__(self, model: nn.Module, step: int) -> None:
        self.step = step
        self._model = model
        self._kept: dict[str, Tensor] = {}

    def keep(self, step: int) -> None:
        """Take the copy, if this is the step."""
        if step == self.step and not self._kept:
            self._kept = {name: value.detach().clone() for name, value in self._tensors().items()}

    @torch.no_grad()
    def back(self, optimizers: Sequence[Optimizer]) -> None:
        """Put the copy back and empty the optimizers' slots; nothing where the copy is not taken yet."""
        if not self._kept:
            return
        for name, value in self._tensors().items():
            value.copy_(self._kept[name])
        for optimizer in optimizers:
            optimizer.state.clear()

    def state_dict(self) -> dict[str, Tensor]:
        """Return the copy; empty where it is not taken yet."""
        return dict(self._kept)

    def refuse_other_model(self, state: Mapping[str, Any]) -> None:
        """Raise where a copy from a checkpoint is of another model.

        Raises:
            ValueError: it is.
        """
        own = self._tensors()
        if state and {k: v.shape for k, v in state.items()} != {k: v.shape for k, v in own.items()}:
            raise ValueError("checkpoint: the weights to rewind to are of another model; resume with that run's model")

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take a copy from a checkpoint.

        Raises:
            ValueError: it is of another model.
        """
        self.refuse_other_model(state)
        own = self._tensors()
        self._kept = {name: value.to(own[name].device) for name, value in state.items()}

    def _tensors(self) -> dict[str, Tensor]:
        return {**dict(self._model.named_parameters()), **dict(self._model.named_buffers())}
