"""The example input of a LightningModule, given or taken from a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch import LightningModule
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

# Samples of a batch that are enough to follow it through the model, which runs many times for that.
SAMPLES = 2


def example_input_of(module: LightningModule, given: Any) -> Any:
    """Return an example input on the module's device.

    Args:
        module: may have an ``example_input_array``.
        given: the setting ``example_input``; None: the module's.

    Returns:
        The input, or None if neither is given.
    """
    example = module.example_input_array if given is None else given
    return None if example is None else move_data_to_device(example, module.device)


def input_of_batch(batch: Any) -> Any:
    """Return two samples of the input in a batch: of the batch if it is a tensor or a mapping, else of its first entry.

    Args:
        batch: as a dataloader returns it.

    Raises:
        ValueError: the batch is something else.

    Example:
        >>> import torch
        >>> image, label = torch.zeros(8, 3), torch.zeros(8)
        >>> input_of_batch((image, label)).shape
        torch.Size([2, 3])
    """
    given = batch[0] if isinstance(batch, Sequence) and batch else batch
    if isinstance(given, (Tensor, Mapping, Sequence)):
        return apply_to_collection(given, Tensor, lambda tensor: tensor[:SAMPLES] if tensor.dim() else tensor)
    raise ValueError(
        f"example_input=None, and a batch of type {type(batch).__name__} does not show what the model takes; give "
        "example_input, or set example_input_array on the module"
    )
