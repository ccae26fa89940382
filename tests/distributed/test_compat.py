"""The private functions of torch that the room uses are there and return what they did."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from lightning_dynprune.distributed import Shard, is_sharded, local_part
from lightning_dynprune.distributed.compat import local_shape_and_offset


@pytest.fixture
def mesh():
    from torch.distributed.device_mesh import DeviceMesh

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield DeviceMesh("cpu", [0])
    dist.destroy_process_group()


def test_torch_says_where_the_local_part_of_a_dtensor_lies(mesh):
    from torch.distributed.tensor import Shard as ShardPlacement
    from torch.distributed.tensor import distribute_tensor

    tensor = distribute_tensor(torch.arange(6.0).view(3, 2), mesh, [ShardPlacement(0)])
    assert local_shape_and_offset(tensor) == ((3, 2), (0, 0))
    shard = Shard.from_tensor(tensor)
    assert (shard.shape, shard.size, shard.offset, shard.is_row_sharded) == ((3, 2), (3, 2), (0, 0), True)
    assert is_sharded(tensor)
    assert torch.equal(shard.full_tensor(local_part(tensor)), torch.arange(6.0).view(3, 2))
