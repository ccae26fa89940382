"""Run a network whose layers read only the weight rows of live inputs."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lightning_dynprune.adaptive.activations.row_skipping import ByteRowSkipping, FloatRowSkipping, RowSkipping
from lightning_dynprune.adaptive.activations.thresholded_forward import thresholded
from lightning_dynprune.adaptive.base import PREFIX
from lightning_dynprune.adaptive.labelled import last_position
from lightning_dynprune.adaptive.stages import flat_form
from lightning_dynprune.base import call_model, max_relative_difference, nested_tensors

# Sums in another order. An input at a threshold may be skipped in one and not in the other, which changes more.
_TOLERANCE = 1e-2


class SkippingRunner(nn.Module):
    """Runs a network with other forms of some of its layers, and returns class scores.

    The rest of the network is shared with the model. The forms hold weights of their own, as they were when they were
    made.

    Args:
        model: the network, in eval mode; it is not changed.
        forms: layers to put in place of its own, by name.
        speeds: the measurements by which they were chosen, by name; for reading.
    """

    def __init__(
        self, model: nn.Module, forms: Mapping[str, nn.Module], speeds: Mapping[str, object] | None = None
    ) -> None:
        super().__init__()
        self.model, self.speeds = with_layers(model, forms), dict(speeds or {})

    def flattened(self, example: Any) -> SkippingRunner:
        """Make the forward one graph of layers, where torch.fx can trace it, and return this runner.

        Args:
            example: inputs of at least one sample.
        """
        self.model = flat_form(self.model, example)
        return self

    @classmethod
    def checked(
        cls,
        model: nn.Module,
        forms: Mapping[str, nn.Module],
        example: Any,
        thresholds: Mapping[str, float],
        precision: str,
    ) -> SkippingRunner:
        """Return a runner that was compared on an example with the network whose inputs are set to zero.

        Raises:
            ValueError: they differ, as a module reads the weight of a layer instead of calling it.
        """
        runner = cls(model, forms)
        with torch.no_grad():
            found = call_model(runner, example)
            with thresholded(model, thresholds, precision):
                expected = last_position(call_model(model, example))
        if max_relative_difference(nested_tensors(found), nested_tensors(expected)) > _TOLERANCE:
            raise ValueError(
                "layers: the network computes something else when its layers skip inputs; a module seems to read the "
                "weight of one of them instead of calling it; name the layers that are called"
            )
        return runner

    @torch.no_grad()
    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the class scores of inputs, ``(n, classes)``."""
        scores: Tensor = last_position(self.model(*args, **kwargs))
        return scores


def all_skipping(model: nn.Module, thresholds: Mapping[str, float], precision: str) -> dict[str, RowSkipping]:
    """Return the layers of a network in the form that skips inputs, by name.

    Args:
        model: the network.
        thresholds: of its layers.
        precision: "float32" or "int8".
    """
    form = ByteRowSkipping if precision == "int8" else FloatRowSkipping
    return {name: form(model.get_submodule(name), threshold) for name, threshold in thresholds.items()}


def with_layers(model: nn.Module, forms: Mapping[str, nn.Module]) -> nn.Module:
    """Return a copy of a network with other layers; it shares the parameters and buffers, and has no method's module.

    Args:
        model: the network.
        forms: layers by name.
    """
    replaced = {id(model.get_submodule(name)): form for name, form in forms.items()}
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    # A copy of a module that the memo holds already is that of the memo, wherever the model names it.
    twin = copy.deepcopy(model, {**shared, **replaced})
    if hasattr(twin, PREFIX):
        delattr(twin, PREFIX)
    return twin
