"""Weight rewinding, as in the search for lottery tickets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class Rewind:
    """Keeps a copy of a model as it was after a given step, and restores it.

    All parameters and buffers are copied (one more copy of the model, in memory and in checkpoints) and restored; the
    optimizers' slots are emptied. The learning-rate schedule and the clock are not rewound.

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
        >>> rewind.restore([])
        >>> net.weight.item() == early
        True
    """

    def __init__(self, model: nn.Module, step: int) -> None:
        self.step = step
        self._model = model
        self._kept: dict[str, Tensor] = {}

    def keep(self, step: int) -> None:
        """Copy the model, if this is the step."""
        if step == self.step and not self._kept:
            self._kept = {name: value.detach().clone() for name, value in self._tensors().items()}

    @torch.no_grad()
    def restore(self, optimizers: Sequence[Optimizer]) -> None:
        """Restore the copy and empty the optimizers' slots; do nothing if there is no copy yet."""
        if not self._kept:
            return
        for name, value in self._tensors().items():
            value.copy_(self._kept[name])
        for optimizer in optimizers:
            optimizer.state.clear()

    def state_dict(self) -> dict[str, Tensor]:
        """Return the copy; empty if there is none yet."""
        return dict(self._kept)

    def check_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raise where a copy from a checkpoint does not fit the model.

        Raises:
            ValueError: names or shapes differ.
        """
        own = self._tensors()
        if state and {k: v.shape for k, v in state.items()} != {k: v.shape for k, v in own.items()}:
            raise ValueError("checkpoint: the weights to rewind to are of another model; resume with that run's model")

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a copy from a checkpoint.

        Raises:
            ValueError: it does not fit the model.
        """
        self.check_state_dict(state)
        own = self._tensors()
        self._kept = {name: value.to(own[name].device) for name, value in state.items()}

    def _tensors(self) -> dict[str, Tensor]:
        return {**dict(self._model.named_parameters()), **dict(self._model.named_buffers())}
