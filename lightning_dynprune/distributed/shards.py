"""Sharded parameters: the part that each process holds, and the whole tensor assembled from the parts."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_dynprune.distributed.compat import local_shape_and_offset
from lightning_dynprune.distributed.ranks import Ranks

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def is_sharded(tensor: Tensor) -> bool:
    """Return whether a tensor is a ``DTensor``, as FSDP2 and tensor parallelism make them."""
    # Importing the module is slow; if nobody has imported it, there are no DTensors.
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def local_part(tensor: Tensor) -> Tensor:
    """Return the part of a tensor that this process holds, sharing its memory; an unsharded one is returned as is."""
    if not is_sharded(tensor):
        return tensor
    with torch.no_grad():  # with gradients enabled it would be a view of a copy
        part: Tensor = tensor.to_local()  # type: ignore[attr-defined]
    return part


@dataclass(frozen=True, eq=False)
class Shard:
    """The part of a sharded tensor that this process holds: a box, given by its offset and size.

    Attributes:
        shape: shape of the whole tensor.
        offset: index of the box's first entry along each dimension.
        size: shape of the box.
        mesh: the device mesh of the tensor.
        placements: the placements of the tensor along each dimension of the mesh.
        is_owner: whether this process counts the box in sums, where others hold copies of it; see :func:`owned_here`.

    Source: DTensor, https://docs.pytorch.org/docs/stable/distributed.tensor.html.
    """

    shape: tuple[int, ...]
    offset: tuple[int, ...]
    size: tuple[int, ...]
    mesh: Any
    placements: Any
    is_owner: bool = True

    @classmethod
    def from_tensor(cls, tensor: Any) -> Shard:
        """Return the part of a sharded tensor that this process holds.

        Raises:
            ValueError: a placement is ``Partial``.
        """
        mesh, placements = tensor.device_mesh, tensor.placements
        if any(placement.is_partial() for placement in placements):
            raise ValueError(
                f"a parameter has placements {placements}; Partial is not supported, give Shard or Replicate"
            )
        size, offset = local_shape_and_offset(tensor)
        return cls(tuple(tensor.shape), offset, size, mesh, placements)

    @property
    def box_id(self) -> int:
        """A 62-bit number that distinguishes the boxes of one tensor."""
        text = repr((self.offset, self.size)).encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 2

    @property
    def is_row_sharded(self) -> bool:
        """Whether every process holds whole rows, or the whole tensor: only the first dimension is sharded."""
        return all(placement.is_replicate() or placement.is_shard(0) for placement in self.placements)

    def positions(self, flat: Tensor) -> Tensor:
        """Return the flat indices in the whole tensor of given flat indices in the box; int64."""
        whole = torch.zeros_like(flat)
        stride = 1
        for extent, first, length in zip(self.shape[::-1], self.offset[::-1], self.size[::-1], strict=True):
            whole += (flat % length + first) * stride
            flat = flat // length
            stride *= extent
        return whole

    def local_box(self, whole: Tensor) -> Tensor:
        """Return the box of a whole tensor that this process holds, as a view."""
        for dim, (first, length) in enumerate(zip(self.offset, self.size, strict=True)):
            # The offset of an empty box may lie past the end.
            whole = whole.narrow(dim, min(first, whole.shape[dim]), length)
        return whole

    def full_tensor(self, part: Tensor) -> Tensor:
        """Return the whole tensor assembled from the boxes of all processes, each of which calls this with its box."""
        return self.as_dtensor(part).full_tensor()

    def as_dtensor(self, part: Tensor) -> DTensor:
        """Return a DTensor of which this process holds ``part``, with this shard's mesh and placements."""
        from torch.distributed.tensor import DTensor

        return DTensor.from_local(
            part.contiguous(),
            self.mesh,
            self.placements,
            run_check=False,
            shape=torch.Size(self.shape),
            stride=torch.empty(self.shape, device="meta").stride(),
        )


def owned_here(tensors: Sequence[Tensor], ranks: Ranks) -> list[bool]:
    """Return, for each tensor, whether this process owns its part: no lower rank holds the same part.

    The meshes of two tensors may differ, so the processes compare what they hold; all of them call this.

    Args:
        tensors: parameters, sharded or not.
        ranks: the processes that hold them.
    """
    boxes = torch.tensor([Shard.from_tensor(tensor).box_id if is_sharded(tensor) else 0 for tensor in tensors])
    everyone = ranks.gather(boxes)
    return [
        not any(bool(other[position] == box) for other in everyone[: ranks.rank]) for position, box in enumerate(boxes)
    ]
