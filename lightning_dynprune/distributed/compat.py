"""The private functions of torch that this room uses."""

from __future__ import annotations

import gc
from typing import Any

import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel


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


def group_store(group: dist.ProcessGroup | None) -> Any:
    """Return the store by which the processes of a group found one another; None if the group has none, or is gone.

    torch has no public function for it before ``ProcessGroup.get_group_store``, which 2.6 lacks. If it goes, an error
    between two updates ends its own process at once and the others as soon as the backend notices.

    Args:
        group: None: the default group.
    """
    from torch.distributed.distributed_c10d import _get_process_group_store

    group = (dist.group.WORLD if dist.is_initialized() else None) if group is None else group
    if group is None:
        return None
    try:
        return _get_process_group_store(group)
    except (KeyError, TypeError):  # MPI has none
        return None


def is_joining(joinable: Any) -> bool:
    """Return whether a module or optimizer was given to torch's ``Join`` context manager, for uneven batches.

    torch has no public way to ask. If the attribute goes, training inside ``join()`` is not refused, and processes wait
    for those that have run out of batches.

    Args:
        joinable: any object.
    """
    return bool(getattr(getattr(joinable, "_join_config", None), "enable", False))


def data_parallel_wrappers(parameter: nn.Parameter) -> list[DistributedDataParallel]:
    """Return the ``DistributedDataParallel`` modules in this process that hold a parameter.

    A module does not know what it is wrapped in, so all objects are looked at, which takes a moment.

    Args:
        parameter: of the module inside.
    """
    wrappers = [one for one in gc.get_objects() if issubclass(type(one), DistributedDataParallel)]
    return [one for one in wrappers if any(parameter is own for own in one.parameters())]
