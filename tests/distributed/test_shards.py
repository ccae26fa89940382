"""A box of a whole tensor: where its entries lie, and who counts it."""

from __future__ import annotations

import pytest
import torch

from lightning_dynprune.distributed import Shard, is_sharded, local_part
from lightning_dynprune.distributed.shards import owned_here
from tests.distributed.threads import in_threads


def box(offset: tuple[int, ...], size: tuple[int, ...], shape: tuple[int, ...] = (3, 4, 5)) -> Shard:
    return Shard(shape, offset, size, None, ())


BOXES = [
    box((0, 0, 0), (3, 4, 5)),
    box((1, 2, 3), (2, 2, 1)),
    box((2, 0, 0), (1, 4, 5)),
    box((3, 0, 0), (0, 4, 5)),  # empty, past the end
]


@pytest.mark.parametrize("shard", BOXES, ids=lambda shard: str(shard.offset))
def test_positions_are_those_in_the_whole_tensor(shard):
    whole = torch.arange(60).view(3, 4, 5)
    flat = shard.local_box(whole).reshape(-1)
    assert tuple(shard.local_box(whole).shape) == shard.size
    assert torch.equal(shard.positions(torch.arange(flat.numel())), flat)


def test_a_local_box_is_a_view():
    whole = torch.zeros(3, 4, 5)
    BOXES[1].local_box(whole).fill_(1.0)
    assert whole.sum() == 4
    assert whole[1:, 2:, 3].sum() == 4


def test_a_box_is_known_by_place_and_size():
    ids = [shard.box_id for shard in BOXES]
    assert len(set(ids)) == len(BOXES)
    assert all(0 <= number < 2**62 for number in ids)
    assert box((1, 2, 3), (2, 2, 1)).box_id == ids[1]
    assert box((1, 2, 3), (2, 2, 2)).box_id != ids[1]


class Placement:
    """Stands for a placement of torch: ``Replicate`` where ``dim`` is None, else ``Shard(dim)``."""

    def __init__(self, dim: int | None) -> None:
        self.dim = dim

    def is_replicate(self) -> bool:
        return self.dim is None

    def is_shard(self, dim: int) -> bool:
        return self.dim == dim


@pytest.mark.parametrize(
    ("dims", "whole_rows"), [([0], True), ([None], True), ([None, 0], True), ([1], False), ([0, 1], False)]
)
def test_whole_rows_are_held_where_only_the_first_dimension_is_sharded(dims, whole_rows):
    assert Shard((2, 2), (0, 0), (2, 2), None, [Placement(dim) for dim in dims]).is_row_sharded is whole_rows


def test_a_plain_tensor_is_its_own_part():
    tensor = torch.ones(2, requires_grad=True)
    assert not is_sharded(tensor)
    assert local_part(tensor) is tensor


def test_a_partial_placement_is_refused_by_name():
    class Partial:
        def is_partial(self) -> bool:
            return True

    class Tensor:
        device_mesh, placements = None, (Partial(),)

    with pytest.raises(ValueError, match="Partial is not supported, give Shard or Replicate"):
        Shard.from_tensor(Tensor())


def test_the_lowest_rank_that_holds_a_part_owns_it(monkeypatch):
    from lightning_dynprune.distributed import shards

    class Part:
        def __init__(self, number: int) -> None:
            self.box_id = number

    monkeypatch.setattr(shards, "is_sharded", lambda tensor: isinstance(tensor, Part))
    monkeypatch.setattr(shards.Shard, "from_tensor", lambda tensor: tensor)
    held = [[Part(1), Part(5), torch.ones(1)], [Part(2), Part(5), torch.ones(1)], [Part(1), Part(6), torch.ones(1)]]
    assert in_threads(3, lambda ranks: owned_here(held[ranks.rank], ranks)) == [
        [True, True, True],
        [True, False, False],
        [False, True, False],
    ]
