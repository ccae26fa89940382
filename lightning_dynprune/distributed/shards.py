"""Parameters that several processes hold in parts: what part is here, and how the whole is put together again."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_dynprune.distributed.ranks import Ranks

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def is_sharded(tensor: Tensor) -> bool:
    """Return whether a tensor is a ``DTensor``, as FSDP2 and tensor parallelism make them."""
    # Where nobody has imported the module there is none, and importing it takes its time.
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def local_part(tensor: Tensor) -> Tensor:
    """Return the part of a tensor that this process holds, sharing its memory; all of it where it is not sharded."""
    if not is_sharded(tensor):
        return tensor
    with torch.no_grad():  # with gradients it would be a copy's view
        part: Tensor = tensor.to_local()  # type: ignore[attr-defined]
    return part


@dataclass(frozen=True, eq=False)
class Shard:
    """The box of a tensor that this process holds.

    Attributes:
        shape: of the whole tensor.
        offset: where the box begins, one number a dimension.
        size: of the box, likewise.
        mesh: the processes, as a grid.
        placements: how the tensor is laid out along each dimension of the mesh.
        is_owner: whether this process counts the box, where others hold a copy of it; see :func:`owned_here`.

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
        """Return the part that this process holds of a sharded tensor.

        Raises:
            ValueError: its processes hold sums that are yet to be added.
        """
        from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

        mesh, placements = tensor.device_mesh, tensor.placements
        if any(placement.is_partial() for placement in placements):
            raise ValueError(f"a parameter of placements {placements} holds sums that are yet to be added")
        size, offset = compute_local_shape_and_global_offset(tensor.shape, mesh, placements)
        return cls(tuple(tensor.shape), tuple(offset), tuple(size), mesh, placements)

    @property
    def box_id(self) -> int:
        """A number of 62 bits that tells one box of a tensor from another."""
        text = repr((self.offset, self.size)).encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 2

    @property
    def is_row_sharded(self) -> bool:
        """Whether every process holds whole rows, or all of the tensor: the first dimension alone is cut."""
        return all(placement.is_replicate() or placement.is_shard(0) for placement in self.placements)

    def positions(self, flat: Tensor) -> Tensor:
        """Return the flat indices in the whole of flat indices in the box; int64."""
        whole = torch.zeros_like(flat)
        stride = 1
        for extent, first, length in zip(self.shape[::-1], self.offset[::-1], self.size[::-1], strict=True):
            whole += (flat % length + first) * stride
            flat = flat // length
            stride *= extent
        return whole

    def local_box(self, whole: Tensor) -> Tensor:
        """Return the box of a whole tensor."""
        for dim, (first, length) in enumerate(zip(self.offset, self.size, strict=True)):
            # An empty box may begin past the end.
            whole = whole.narrow(dim, min(first, whole.shape[dim]), length)
        return whole

    def full_tensor(self, part: Tensor) -> Tensor:
        """Return the whole tensor of which every process gives its box; called by all of them."""
        return self.as_dtensor(part).full_tensor()

    def as_dtensor(self, part: Tensor) -> DTensor:
        """Return a sharded tensor of which this process holds ``part``, laid out as the one at hand."""
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
    """Return which tensors this process owns: those of whose part, or whole, it is the first holder.

    The meshes of two tensors may differ, so the processes tell each other; all of them call this.
    """
    places = torch.tensor([Shard.from_tensor(tensor).box_id if is_sharded(tensor) else 0 for tensor in tensors])
    everyone = ranks.gather(places)
    return [
        not any(bool(other[position] == place) for other in everyone[: ranks.rank])
        for position, place in enumerate(places)
    ]
