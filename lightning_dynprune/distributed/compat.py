"""The private functions of torch that this room uses."""

from __future__ import annotations

from typing import Any


def local_shape_and_offset(tensor: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the size of this process's part of a DTensor, and where it begins in the whole tensor.

    torch has no public function for it. If it goes, no sharded parameter can be pruned: masks, random numbers and ties
    need the position of each local entry in the whole tensor.

    Args:
        tensor: a ``DTensor``.
    """
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    size, offset = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    return tuple(size), tuple(offset)
