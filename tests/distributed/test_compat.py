"""The private functions of torch that the room uses are there and return what they did."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.join import Join
from torch.nn.parallel import DistributedDataParallel

from lightning_dynprune.distributed import Shard, is_sharded, local_part
from lightning_dynprune.distributed.compat import (
    data_parallel_wrappers,
    group_store,
    is_joining,
    local_shape_and_offset,
)


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


def test_a_group_gives_its_store_and_none_once_it_is_destroyed():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    store = group_store(None)
    store.set("key", "value")
    assert group_store(dist.group.WORLD).get("key") == b"value"
    dist.destroy_process_group()
    assert group_store(None) is None


def test_torch_says_which_wrapper_is_inside_join(mesh):
    net = nn.Linear(2, 2)
    wrapped = DistributedDataParallel(net)
    (found,) = data_parallel_wrappers(net.weight)
    assert found is wrapped
    assert not is_joining(wrapped)
    with Join([wrapped]):
        assert is_joining(wrapped)
    assert not is_joining(net)
