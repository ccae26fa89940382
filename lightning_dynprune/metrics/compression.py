"""The compression ratio: all parameters over non-zero parameters."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from lightning_dynprune.metrics.counting import exact, total


def _count(model: nn.Module | Iterable[Tensor], device: torch.device | None = None) -> tuple[int, Tensor]:
    parameters = _distinct(model)
    nonzero = [torch.count_nonzero(parameter.detach()) for parameter in parameters]
    return sum(parameter.numel() for parameter in parameters), total(nonzero, device or nonzero[0].device)


def _distinct(model: nn.Module | Iterable[Tensor]) -> list[Tensor]:
    if isinstance(model, nn.Module):
        given: list[Tensor] = list(model.parameters())
    elif isinstance(model, Tensor):
        given = [model]
    elif isinstance(model, Iterable):
        given = list(model)
    else:
        raise TypeError(f"model={model!r} is not accepted; give a torch.nn.Module or its parameters")
    for position, parameter in enumerate(given):
        if not isinstance(parameter, Tensor):
            raise TypeError(f"model holds {parameter!r} at position {position}; give parameters, as tensors")
    # An iterable may name a tied parameter twice; Tensor's == compares entries, so identity needs id().
    distinct = list({id(parameter): parameter for parameter in given}.values())
    if not any(parameter.numel() for parameter in distinct):
        raise ValueError("model has no parameters to count; give one with at least one entry")
    return distinct


def compression_ratio(model: nn.Module | Iterable[Tensor]) -> Tensor:
    r"""Return the number of parameters of a model divided by the number that are not zero.

    .. math:: r = \frac{N}{|\{i : w_i \ne 0\}|}

    over all parameters, including biases, norms and embeddings; a tied parameter counts once.

    Args:
        model: the model, or its parameters.

    Returns:
        Zero-dimensional float64, at least 1; infinite where every parameter is zero.

    Raises:
        TypeError: ``model`` is neither a module nor an iterable of tensors.
        ValueError: ``model`` has no parameters.

    Example:
        >>> import torch
        >>> compression_ratio([torch.tensor([0.0, 0.0, 0.0, 2.0]), torch.tensor([1.0, -0.0])]).item()
        3.0

    Source: Blalock et al., "What is the State of Neural Network Pruning?", 2020: original size over new size.
    """
    parameters, nonzero = _count(model)
    return parameters / exact(nonzero)


class CompressionRatio(Metric):
    r"""Computes the number of parameters of a model divided by the number that are not zero.

    .. math:: r = \frac{N}{|\{i : w_i \ne 0\}|}

    ``update`` takes ``model``: the model or its parameters; biases, norms and embeddings count, a tied
    parameter once. ``compute`` returns a zero-dimensional float64, at least 1, and infinite where every
    parameter is zero. Counts are summed over updates, so the parts of one model can be given one by one.

    Args:
        **kwargs: settings of every torchmetrics metric, such as ``dist_sync_on_step``.

    Raises:
        TypeError: at ``update``, ``model`` is neither a module nor an iterable of tensors.
        ValueError: at ``update``, ``model`` has no parameters.

    Example:
        >>> import torch
        >>> metric = CompressionRatio()
        >>> metric.update([torch.tensor([0.0, 0.0, 0.0, 2.0]), torch.tensor([1.0, -0.0])])
        >>> metric.compute().item()
        3.0

    Source: Blalock et al., "What is the State of Neural Network Pruning?", 2020: original size over new size.
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    parameters_counted: Tensor
    nonzero: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # A state named "parameters" would hide nn.Module.parameters, as Metric is a module.
        self.add_state("parameters_counted", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("nonzero", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, model: nn.Module | Iterable[Tensor]) -> None:
        """Add the numbers of parameters, and of those that are not zero."""
        parameters, nonzero = _count(model, self.nonzero.device)
        self.parameters_counted += parameters
        self.nonzero += nonzero

    def compute(self) -> Tensor:
        """Return the ratio over all updates, float64."""
        return self.parameters_counted / exact(self.nonzero)
