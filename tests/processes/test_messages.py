"""What processes tell each other in one message, and that it is what many would have said."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from lightning_dynprune.distributed import Ranks
from lightning_dynprune.engine import Pruner
from lightning_dynprune.masks import MaskSet, pack_bits
from lightning_dynprune.selection.radix import kth_largest_each
from lightning_dynprune.targets import find_targets
from tests.processes.group import together

# Rows that do not divide by 3, rows of bits that end where no byte does, fewer rows than processes.
SHAPES = [(16, 7), (5, 11), (24, 16), (8, 2), (3, 3)]
RUNS = [(scope, tied) for scope in ("global", "uniform", "erk") for tied in (False, True)]


def _network(tied: bool = False) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(*[nn.Linear(inputs, rows, bias=False) for inputs, rows in SHAPES])
    if tied:
        for parameter in net.parameters():
            parameter.data = parameter.data.mul(8).round()
    return net


def _masks() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(rows, inputs, generator=generator) < 0.5 for inputs, rows in SHAPES]


def _sums() -> list[tuple[int, ...]]:
    """Return a list that grows by the shape of every sum that this process asks for from here on."""
    asked: list[tuple[int, ...]] = []
    plain = dist.all_reduce

    def noted(tensor: Tensor, *args: object, **kwargs: object) -> object:
        asked.append(tuple(tensor.shape))
        return plain(tensor, *args, **kwargs)

    dist.all_reduce = noted
    return asked


def _written_and_packed(rank: int) -> dict[str, object]:
    net = _network()
    fully_shard(net, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    masks = MaskSet(find_targets(net), Ranks())
    asked = _sums()
    parts = [target.local_part(mask) for target, mask in zip(masks.targets, _masks(), strict=True)]
    changes = masks.write_each((i, [part.reshape(-1)], None) for i, part in enumerate(parts))
    counts = masks.count(masks.tensors)
    return {"changes": changes, "kept": masks.kept, "counts": counts, "asked": asked, "packed": masks.pack()}


@pytest.mark.parametrize("size", [2, 3])
def test_masks_in_parts_are_counted_by_one_message_and_packed_as_the_whole_ones(size: int, tmp_path: Path) -> None:
    whole = _masks()
    kept = [int(mask.sum()) for mask in whole]
    for result in together(size, _written_and_packed, tmp_path):
        assert result["kept"] == result["counts"] == kept
        assert result["changes"] == [(mask.numel() - count, 0) for mask, count in zip(whole, kept, strict=True)]
        assert result["asked"] == [(2 * len(whole) + 1,), (len(whole) + 1,)]  # counts, and an error flag
        for position, mask in enumerate(whole):
            assert torch.equal(result["packed"][f"{position}.weight"], pack_bits(mask)), SHAPES[position]


def _pruner(net: nn.Module, scope: str) -> Pruner:
    threshold = {"name": "topk", "scope": scope}
    return Pruner(net, sparsity=0.9, strategy="magnitude", threshold=threshold, total_steps=9)


def _cut_by_target(rank: int) -> dict[tuple[str, bool], tuple[dict[str, Tensor], int]]:
    found = {}
    for scope, tied in RUNS:
        net = _network(tied)
        fully_shard(net, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
        pruner = _pruner(net, scope)
        asked = _sums()
        pruner.update(0.5)
        sums = len(asked)
        found[scope, tied] = pruner.state_dict()["masks"], sums
    return found


def test_cuts_of_every_target_by_itself_are_exact_in_as_many_messages_as_one(tmp_path: Path) -> None:
    results = together(3, _cut_by_target, tmp_path)
    for scope, tied in RUNS:
        alone = _pruner(_network(tied), scope)
        alone.update(0.5)
        for result in results:
            masks, sums = result[scope, tied]
            assert all(torch.equal(masks[name], mask) for name, mask in alone.state_dict()["masks"].items()), scope
            # Flags: finite weights, the draw, a pass; counts: bracket, three digits, at the cut, new masks. Ties are
            # told by a digit more, where they are not all that the bracket holds.
            assert sums <= 10 if tied else sums == 9, scope


def _joined_and_ranked(rank: int) -> tuple[list[Tensor], list[float]]:
    ranks = Ranks()
    own = [torch.arange(3 * rank, dtype=torch.float32), torch.full((int(rank == 1),), 0.1, dtype=torch.float64)]
    lots = [torch.tensor([1.0, 4.0]) + rank, torch.tensor([-2.0]) * rank]
    best = kth_largest_each([2, 3], [[lot] for lot in lots], [6, 3], ranks, torch.float32)
    return ranks.concat_each(own), best


def test_several_lots_are_joined_and_ranked_each_by_itself(tmp_path: Path) -> None:
    for (first, second), best in together(3, _joined_and_ranked, tmp_path):
        assert first.tolist() == [0, 1, 2, 0, 1, 2, 3, 4, 5]
        assert (first.dtype, second.dtype) == (torch.float32, torch.float64)
        assert second.tolist() == [0.1]
        assert best == [5.0, -4.0]  # of 1 4 2 5 3 6, and of 0 -2 -4
