"""Pairs of inputs and labels, checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lightning_dynprune.adaptive.base import Batches
from lightning_dynprune.adaptive.forward_cut import batch_of
from lightning_dynprune.base import map_tensors


def labelled_batches(batches: Batches, device: torch.device, name: str) -> Iterator[tuple[Any, Tensor]]:
    """Yield the inputs and the labels of each batch, on a device; empty batches are left out.

    Args:
        batches: pairs of inputs and labels, as a data loader returns them.
        device: of the model.
        name: of the batches, for messages.

    Raises:
        TypeError: a batch is no pair, or its labels are no class indices.
        ValueError: a batch has other numbers of inputs and labels.
    """
    for batch in batches:
        inputs, labels = split_pair(batch, name)
        count = batch_of(inputs)
        if labels.shape[0] != count:
            raise ValueError(f"{name}: {count} inputs and {labels.shape[0]} labels in one batch; give one label each")
        if count:
            yield map_tensors(lambda tensor: tensor.to(device), inputs), labels.to(device)


def first_inputs(batches: Batches, device: torch.device, name: str, most: int = 8) -> Any:
    """Return the inputs of some samples of the first batch.

    Args:
        batches: pairs of inputs and labels.
        device: of the model.
        name: of the batches, for messages.
        most: number of samples.

    Raises:
        ValueError: there are no batches.
    """
    for inputs, _ in labelled_batches(batches, device, name):
        return map_tensors(lambda tensor: tensor[:most], inputs)
    raise ValueError(f"{name} has no inputs; give batches of inputs and labels")


def split_pair(batch: Any, name: str) -> tuple[Any, Tensor]:
    """Return the inputs and the labels of a batch.

    Args:
        batch: as a data loader returns it.
        name: of the batches, for messages.

    Raises:
        TypeError: the batch is no pair, or the labels are no class indices.
    """
    if isinstance(batch, Mapping) or not isinstance(batch, (tuple, list)) or len(batch) != 2:
        raise TypeError(f"{name}: a batch is a {type(batch).__name__}; give pairs (inputs, labels)")
    inputs, labels = batch
    whole = isinstance(labels, Tensor) and not (labels.is_floating_point() or labels.is_complex())
    if not whole or labels.dtype == torch.bool or labels.dim() not in (1, 2):
        what = f"{labels.dtype} {tuple(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(f"{name}: labels are {what}; give class indices, int64 (batch,) or (batch, positions)")
    return inputs, labels.long()


def last_position(scores: Tensor, labels: Tensor | None = None) -> Any:
    """Return the scores of each input, and its label: of a token model those at the last position.

    Args:
        scores: ``(n, classes)`` or ``(n, positions, classes)``.
        labels: ``(n,)`` or ``(n, positions)``; None returns the scores alone.

    Raises:
        ValueError: labels that are no class indices of these scores.
    """
    last = scores[:, -1] if scores.dim() == 3 else scores
    if labels is None:
        return last
    if labels.dim() == 2:
        if scores.dim() != 3:
            raise ValueError(
                f"labels of shape {tuple(labels.shape)} and scores of shape {tuple(scores.shape)}: give one class "
                "index an input, int64 (batch,)"
            )
        labels = labels[:, -1]
    classes = last.shape[1]
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(
            f"labels from {int(labels.min())} to {int(labels.max())} are no class indices of {classes} classes; give 0 "
            f"to {classes - 1}"
        )
    return last, labels


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's parameters; the CPU if it has none."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
