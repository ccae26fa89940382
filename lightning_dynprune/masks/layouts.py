"""Operations on tensors that follow their memory layout: multiplying by a mask, selecting entries along a dimension."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from lightning_dynprune.base import integer_view

# A product of two dtypes converts its smaller operand into a temporary copy. Chunks of this many entries keep that copy
# in the cache and out of the peak of memory. On an accelerator the product is one kernel of any size.
CHUNK_SIZE = 2**19


def integer_pieces(tensor: Tensor, mask: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
    """Yield integer views of a tensor's entries with views of its mask as 0 and 1, piece by piece.

    The product of a float's bits with 0 or 1 is +0.0 or the float itself. A product of floats would leave -0.0, NaN and
    inf in pruned entries.
    """
    bits = integer_view(tensor)
    ones = mask.view(torch.uint8)
    if tensor.device.type != "cpu" or not (bits.is_contiguous() and ones.is_contiguous()):
        order = sorted(range(bits.dim()), key=lambda axis: bits.stride()[axis], reverse=True)
        yield bits.permute(order), ones.permute(order)
        return
    yield from zip(torch.split(bits.view(-1), CHUNK_SIZE), torch.split(ones.view(-1), CHUNK_SIZE), strict=True)


def select_along(tensor: Tensor, dim: int, positions: Tensor) -> Tensor:
    """Return the entries at ``positions`` (int64) along ``dim``, in the memory format of ``tensor``."""
    chosen = tensor.index_select(dim, positions.to(tensor.device))
    for layout, dims in ((torch.channels_last, 4), (torch.channels_last_3d, 5)):
        if tensor.dim() == dims and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=layout):
            return chosen.contiguous(memory_format=layout)
    return chosen.contiguous()
