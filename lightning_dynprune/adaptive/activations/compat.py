"""The operators of torch that sum 8-bit rows; they are public nowhere but in ``torch.ops``.

If one goes, ``precision="int8"`` of activation thresholds cannot run, and raises an AttributeError that names it.
"""

from __future__ import annotations

import torch
from torch import Tensor


def pack_byte_rows(table: Tensor) -> Tensor:
    """Return a matrix with each row in 8 bits, followed by the row's scale and offset: uint8 ``(rows, columns + 8)``.

    Args:
        table: float32 ``(rows, columns)``.
    """
    packed: Tensor = torch.ops.quantized.embedding_bag_byte_prepack(table)
    return packed


def unpack_byte_rows(packed: Tensor) -> Tensor:
    """Return the float32 matrix that :func:`pack_byte_rows` rounded."""
    table: Tensor = torch.ops.quantized.embedding_bag_byte_unpack(packed)
    return table


def sum_byte_rows(packed: Tensor, indices: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    """Return weighted sums of rows, float32 ``(bags, columns)``.

    Args:
        packed: of :func:`pack_byte_rows`.
        indices: rows of all bags, int32.
        offsets: position in ``indices`` at which each bag begins, int32.
        weights: factor of each row, float32.
    """
    # Positional: scale_grad_by_freq, mode (0 is the sum), pruned_weights, weights, row map, include_last_offset.
    sums: Tensor = torch.ops.quantized.embedding_bag_byte_rowwise_offsets(
        packed, indices, offsets, False, 0, False, weights, None, False
    )
    return sums
