"""DDP: every process holds every target whole, and all masks are one."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from lightning_dynprune.distributed import Ranks, mask_checksum
from lightning_dynprune.distributed.ranks import RankError
from tests.conformance import parts
from tests.processes.group import together
from tests.processes.training import adam, alone, ended, have_same_masks, network, pruner, share, train

PATTERNS: dict[str, Any] = {
    "n_m": {"pattern": {"name": "n_m", "n": 2, "m": 4}, "targets": ["0.weight", "2.weight"]},
    "block": {"pattern": {"name": "block", "rows": 4, "columns": 1, "pad": True}, "sparsity": 0.5},
    "channel": {"pattern": "channel", "sparsity": 0.5, "example_input": torch.randn(2, 8, dtype=torch.float64)},
    "reconstruct": {"reconstruct": True},
}
RUNS = {**{name: {"strategy": settings} for name, settings in parts.STRATEGIES.items()}, **PATTERNS}


def _one(settings: dict[str, Any]) -> dict[str, Any]:
    """Train one network in this process of a group, wrapped in DDP."""
    net = network()
    wrapped = DistributedDataParallel(net)
    optimizer = adam(net)
    ours = pruner(net, optimizer, **settings)
    seen: list[int] = []
    check_equal = ours.ranks.check_equal

    def recorded(*args: Any) -> None:
        seen.extend(mask_checksum(mask) for mask in ours.masks.tensors)
        check_equal(*args)

    ours.ranks.check_equal = recorded  # type: ignore[method-assign]
    train(wrapped, ours, optimizer, share())
    return {**ended(ours), "checksums": seen}


def _all(rank: int) -> dict[str, Any]:
    return {name: _one(settings) for name, settings in RUNS.items()}


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.filterwarnings("ignore:.*is down to min_kept")
def test_masks_are_one_at_every_update_and_those_of_one_process_on_the_global_batch(size, tmp_path):
    results = together(size, _all, tmp_path)
    for name, settings in RUNS.items():
        first = results[0][name]
        assert first["checksums"], name
        for other in results[1:]:
            assert other[name]["checksums"] == first["checksums"], name
            assert all(torch.equal(other[name]["weights"][k], w) for k, w in first["weights"].items()), name
        single = alone(**settings)
        assert first["updates"] == single["updates"], name
        assert first["sparsity"] == single["sparsity"], name
        assert have_same_masks(first, single), name


def _with_a_seed_of_its_own(rank: int) -> str:
    net = network()
    optimizer = adam(net)
    ours = pruner(net, optimizer, strategy="random")
    ours._run.views.seed = rank  # as a strategy of one's own might take it from elsewhere
    with pytest.raises(RankError) as caught:
        train(DistributedDataParallel(net), ours, optimizer, share())
    return str(caught.value)


def test_a_seed_that_depends_on_the_rank_is_caught_by_target_and_rank(tmp_path):
    for message in together(2, _with_a_seed_of_its_own, tmp_path):
        assert message.startswith("mask of 0.weight differs between rank 0 and rank 1")
        assert "a seed, a metric or weights that depend on the rank" in message


def _with_a_weight_of_its_own(rank: int) -> str:
    net = network()
    if rank == 1:
        net[2].weight.data[3, 5] = 9.0
    ours = pruner(net, adam(net), strategy="magnitude")
    with pytest.raises(RankError) as caught:
        ours.update(0.5)
    return str(caught.value)


def test_weights_that_have_drifted_apart_are_caught_where_they_change_a_mask(tmp_path):
    message = together(2, _with_a_weight_of_its_own, tmp_path)[0]
    assert re.match("mask of .+ differs between rank 0 and rank 1", message)


def _with_nan(rank: int) -> tuple[str, str, int]:
    net = network()
    if rank == 1:
        net[2].weight.data[0, 0] = float("nan")
    ours = pruner(net, adam(net), strategy="magnitude")
    with pytest.raises(RuntimeError) as caught:
        ours.update(0.5)
    return type(caught.value).__name__, str(caught.value), sum(ours.masks.kept) - ours.masks.total


def test_what_stops_one_process_stops_all_and_nothing_has_changed(tmp_path):
    other, faulty = together(2, _with_nan, tmp_path)
    assert faulty[0] == "NonFiniteError"
    assert faulty[1].startswith("weights of 2.weight are not finite")
    assert other[0] == "RankError"
    assert other[1].startswith("rank 1 failed: NonFiniteError: weights of 2.weight")
    assert other[2] == faulty[2] == 0


def _where_one_has_seen_no_inputs(rank: int, settings: dict[str, Any]) -> dict[str, torch.Tensor]:
    net = network()
    ours = pruner(net, adam(net), **settings)
    inputs = torch.randn(12, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    ours.calibrate([inputs] if rank == 0 else [])
    ours.update(0.5)
    return {target.name: target.values for target in ours.targets}


@pytest.mark.parametrize("settings", [{"strategy": "wanda"}, {"strategy": "magnitude", "reconstruct": True}])
def test_inputs_that_one_process_saw_count_for_all(settings, tmp_path):
    first, second = together(2, _where_one_has_seen_no_inputs, tmp_path, settings)
    net = network()
    ours = pruner(net, adam(net), **settings)
    ours.calibrate([torch.randn(12, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)])
    ours.update(0.5)
    for target in ours.targets:
        assert torch.equal(first[target.name], target.values)
        assert torch.equal(second[target.name], target.values)


def _each_on_its_own(rank: int) -> int:
    groups = [dist.new_group([member]) for member in range(2)]
    net = nn.Linear(8, 8)
    ours = pruner(net, adam(net), strategy="random", seed=rank, process_group=groups[rank])
    ours.update(0.5)
    return mask_checksum(ours.masks.tensors[0])


def test_a_group_of_one_prunes_on_its_own(tmp_path):
    first, second = together(2, _each_on_its_own, tmp_path)
    assert first != second


def _messages(rank: int) -> list[str]:
    ranks, said = Ranks(), []
    with pytest.raises(RankError) as caught:
        ranks.check_equal(["a", "b"], [5, rank // 2])
    said.append(str(caught.value))
    # Parts that differ are not compared.
    ranks.check_equal(["a"], [rank], parts=[rank])
    return said


def test_the_first_difference_is_named_with_its_rank(tmp_path):
    assert "b differs between rank 0 and rank 2" in together(3, _messages, tmp_path)[1][0]


def test_a_checksum_heeds_every_entry_and_its_place():
    generator = torch.Generator().manual_seed(0)
    for size in (1, 7, 8, 9, 4096, 2**19 + 3):
        mask = torch.rand(size, generator=generator) < 0.5
        known = mask_checksum(mask)
        assert mask_checksum(mask.clone()) == known
        for place in torch.randint(size, (20,), generator=generator).tolist():
            other = mask.clone()
            other[place] ^= True
            assert mask_checksum(other) != known
    assert mask_checksum(torch.zeros(16, dtype=torch.bool)) != mask_checksum(torch.zeros(24, dtype=torch.bool))
    assert len({mask_checksum(row) for row in torch.eye(4096, dtype=torch.bool)}) == 4096
