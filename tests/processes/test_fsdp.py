"""FSDP2 and tensor parallelism: every process holds parts of the targets, and together they make one mask."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from lightning_dynprune.distributed import Ranks, Shard
from lightning_dynprune.distributed.ranks import RankError
from lightning_dynprune.engine import Pruner
from lightning_dynprune.selection.radix import kth_largest, kth_smallest
from tests.conformance import parts
from tests.processes.group import together
from tests.processes.training import STEPS, adam, alone, batch, ended, have_same_masks, network, pruner, train

# Wanda ranks whole rows; every other strategy scores connection by connection.
STRATEGIES = {name: settings for name, settings in parts.STRATEGIES.items() if name != "wanda"}
THRESHOLDS = {name: {"threshold": settings} for name, settings in parts.THRESHOLDS.items()}
RUNS: dict[str, Any] = {
    **{name: {"strategy": settings} for name, settings in STRATEGIES.items()},
    **{f"by {name}": {"strategy": "magnitude", **settings} for name, settings in THRESHOLDS.items()},
    "erk": {"strategy": "magnitude", "threshold": {"name": "topk", "scope": "erk"}},
}


def _sharded(layout: str) -> tuple[nn.Module, tuple[int, int]]:
    """Return the network in parts, and this process's share of each batch."""
    net, size, rank = network(), dist.get_world_size(), dist.get_rank()
    if layout == "data":
        for layer in net:
            if isinstance(layer, nn.Linear):
                fully_shard(layer)
        fully_shard(net)
        return net, (rank, size)
    mesh = init_device_mesh("cpu", (size // 2, 2), mesh_dim_names=("data", "tensor"))
    parallelize_module(net, mesh["tensor"], {"0": ColwiseParallel(), "2": RowwiseParallel()})
    if size > 2:
        fully_shard(net, mesh=mesh["data"])
    return net, (rank // 2, size // 2)


def _begun(layout: str, settings: dict[str, Any]) -> tuple[nn.Module, Pruner, torch.optim.Optimizer, tuple[int, int]]:
    net, share = _sharded(layout)
    optimizer = adam(net)
    return net, pruner(net, optimizer, **settings), optimizer, share


def _all(rank: int, layout: str, names: list[str]) -> dict[str, Any]:
    results = {}
    for name in names:
        net, ours, optimizer, share = _begun(layout, RUNS[name])
        train(net, ours, optimizer, share)
        results[name] = ended(ours)
    return results


@pytest.mark.parametrize(("layout", "size"), [("data", 2), ("data", 3), ("tensor", 2), ("both", 4)])
@pytest.mark.filterwarnings("ignore:.*is down to min_kept", "ignore:.*redistributing")
def test_masks_in_parts_are_those_of_one_process(layout, size, tmp_path):
    names = list(RUNS) if layout == "data" else ["random", "taylor", "straight_through"]
    results = together(size, _all, tmp_path, layout, names)
    for name in names:
        single, first = alone(**RUNS[name]), results[0][name]
        for other in results[1:]:
            assert have_same_masks(other[name], first), name
        assert first["sparsity"] == single["sparsity"], name
        assert have_same_masks(first, single), name
        for target, weight in first["weights"].items():
            bits = first["masks"][target]
            mask = (bits.unsqueeze(1) >> torch.arange(8) & 1).reshape(-1)[: weight.numel()].bool().view(weight.shape)
            assert torch.equal(weight[~mask], torch.zeros_like(weight[~mask])), (name, target)


def _half_way(rank: int, layout: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Train half of the steps; return what a checkpoint holds, whole."""
    net, ours, optimizer, share = _begun(layout, settings)
    train(net, ours, optimizer, share, last=STEPS // 2)
    weights = {name: p.detach().full_tensor() for name, p in net.named_parameters()}
    slots = [
        {k: v.full_tensor() if hasattr(v, "full_tensor") else v for k, v in optimizer.state[p].items()}
        for p in net.parameters()
    ]
    return {"weights": weights, "slots": slots, "pruner": ours.state_dict()}


def _other_half(rank: int, layout: str, settings: dict[str, Any], saved: bytes) -> dict[str, Any]:
    """Go on from a checkpoint in another number of processes."""
    state = torch.load(io.BytesIO(saved), weights_only=True)
    net, ours, optimizer, share = _begun(layout, settings)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            shard = Shard.from_tensor(parameter)
            parameter.to_local().copy_(shard.local_box(state["weights"][name]))
            slots = state["slots"].pop(0)
            optimizer.state[parameter] = {
                k: shard.as_dtensor(shard.local_box(v).clone()) if v.shape == parameter.shape else v
                for k, v in slots.items()
            }
    ours.load_state_dict(state["pruner"])
    before = copy.deepcopy(ours.state_dict())
    train(net, ours, optimizer, share, first=STEPS // 2)
    return {"before": before["masks"], "latent": before["state"], **ended(ours)}


@pytest.mark.parametrize("strategy", ["taylor", "straight_through"])
@pytest.mark.filterwarnings("ignore:.*is down to min_kept")
def test_a_state_resumes_in_another_number_of_processes(strategy, tmp_path):
    settings = {"strategy": strategy}
    saved, *others = together(2, _half_way, tmp_path, "data", settings)
    assert all(torch.equal(others[0]["pruner"]["masks"][k], m) for k, m in saved["pruner"]["masks"].items())
    buffer = io.BytesIO()
    torch.save(saved, buffer)
    single = alone(**settings)
    for size in (1, 3):
        (tmp_path / str(size)).mkdir()
        resumed, *_ = together(size, _other_half, tmp_path / str(size), "data", settings, buffer.getvalue())
        for name, mask in saved["pruner"]["masks"].items():
            assert torch.equal(resumed["before"][name], mask)
            for key, value in saved["pruner"]["state"][name].items():
                assert torch.equal(resumed["latent"][name][key], value), key
        assert resumed["sparsity"] == single["sparsity"]
        assert have_same_masks(resumed, single)


def _refusals(rank: int, runs: list[dict[str, Any]]) -> list[str]:
    messages = []
    net, _ = _sharded("data")
    for settings in runs:
        with pytest.raises(ValueError, match="needs whole targets") as caught:
            pruner(net, adam(net), **{"strategy": "magnitude", **settings})
        messages.append(str(caught.value))
    return messages


def test_what_needs_whole_targets_is_refused_in_words(tmp_path):
    runs: list[dict[str, Any]] = [
        {"pattern": {"name": "block", "rows": 2, "columns": 1, "pad": True}, "sparsity": 0.5},
        {"pattern": "channel", "sparsity": 0.5},
        {"strategy": "wanda"},
        {"reconstruct": True},
        {"rewind": 1},
        {"journal": {"remember_values": True}},
    ]
    said = ("pattern block", "pattern channel", "strategy=Wanda", "reconstruct=True", "rewind=1", "remembers values")
    for messages in together(2, _refusals, tmp_path, runs):
        assert all(what in message for what, message in zip(said, messages, strict=True))
        assert all("parts of 0.weight" in message and "train by DDP" in message for message in messages)


def _flat(rank: int) -> str:
    net = nn.Sequential(FullyShardedDataParallel(nn.Linear(4, 4), device_id=torch.device("cpu")))
    with pytest.raises(ValueError, match="FSDP1") as caught:
        Pruner(net, sparsity=0.5, strategy="magnitude")
    return str(caught.value)


def test_fsdp1_is_refused_with_the_reason_and_what_to_use_instead(tmp_path):
    message = together(2, _flat, tmp_path)[0]
    assert message.startswith("0 is wrapped in FullyShardedDataParallel (FSDP1), which flattens parameters")
    assert "fully_shard" in message
    assert "ModelParallelStrategy" in message


def _faults(rank: int) -> list[str]:
    """Give one process another seed, then a NaN where only it looks."""
    said = []
    net, _ = _sharded("data")
    ours = pruner(net, adam(net), strategy="random")
    ours._run.views.seed = rank
    with pytest.raises(RankError) as caught:
        ours.update(0.5)
    said.append(str(caught.value))
    ours.close()
    net, _ = _sharded("data")
    ours = pruner(net, adam(net), strategy="magnitude")
    if rank == 1:
        next(net.parameters()).to_local().data[0, 0] = float("inf")
    with pytest.raises(RuntimeError) as error:
        ours.update(0.5)
    return [*said, str(error.value), str(ours.sparsity)]


def test_faults_of_one_process_are_told_by_all(tmp_path):
    first, second = together(2, _faults, tmp_path)
    assert "seed differs between rank 0 and rank 1" in first[0]
    assert first[1].startswith("rank 1 failed: NonFiniteError: weights of 0.weight")
    assert second[1].startswith("weights of 0.weight are not finite")
    assert first[2] == second[2] == "0.0"


def _by_two_optimizers(rank: int, layout: str | None) -> dict[str, Any]:
    """Train by two optimizers stepped by hand, and leave the run between their turns."""
    net, share = (network(), (0, 1)) if layout is None else _sharded(layout)
    optimizers = [adam(net[0]), adam(net[2:])]
    ours = pruner(net, optimizers, strategy={"name": "rigl", "exchange": 0.3})
    waiting: dict[str, Any] | None = None
    for step in range(STEPS):
        x, y = batch(step, *share)
        for optimizer in optimizers:
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            optimizer.step()
            waiting = ours.state_dict()["gradient_snapshot"] or waiting
        ours.tick()
    assert waiting is not None
    return {**ended(ours), "gradients": waiting["gradients"]}


@pytest.mark.filterwarnings("ignore:.*is down to min_kept")
def test_gradients_in_parts_wait_for_another_optimizers_turn_and_are_saved_whole(tmp_path):
    single = _by_two_optimizers(0, None)
    first, second = together(2, _by_two_optimizers, tmp_path, "data")
    assert have_same_masks(first, single)
    for name, gradient in single["gradients"].items():
        assert first["gradients"][name].shape == gradient.shape
        assert torch.equal(first["gradients"][name], second["gradients"][name])


def _restoring(rank: int) -> str:
    net, _ = _sharded("data")
    ours = pruner(net, adam(net), strategy="magnitude")
    ours.update(0.5)
    with pytest.raises(ValueError, match="restore: several processes") as caught:
        ours.restore(0)
    return str(caught.value)


def test_masks_in_parts_are_not_restored_and_say_so(tmp_path):
    assert "no positions were recorded" in together(2, _restoring, tmp_path)[0]


def _places(rank: int) -> list[Tensor]:
    """Number the entries of a tensor; return them as they are found in parts."""
    found = []
    for layout in ("data", "both"):
        net, _ = _sharded(layout)
        for parameter in net.parameters():
            shard = Shard.from_tensor(parameter)
            numbers = torch.arange(parameter.numel()).view(parameter.shape)
            part = shard.local_box(numbers)
            assert part.shape == parameter.to_local().shape
            assert torch.equal(shard.positions(torch.arange(part.numel())), part.reshape(-1))
            found.append(shard.full_tensor(part.clone()))
    return found


@pytest.mark.filterwarnings("ignore:.*redistributing")
def test_parts_know_their_places_and_make_the_whole(tmp_path):
    for found in together(4, _places, tmp_path):
        for whole in found:
            assert torch.equal(whole.reshape(-1), torch.arange(whole.numel()))


def _selected(rank: int, values: Tensor, ranks: list[int]) -> list[float]:
    own = values.chunk(3)[rank]
    return [kth_largest(k, [own[:5], own[5:]], values.numel(), Ranks(), values.dtype) for k in ranks]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_kth_best_of_numbers_held_apart_is_that_of_all(dtype, tmp_path):
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(3000, generator=generator, dtype=dtype)
    values[::3] = values[::3].round()  # ties, both zeros and both signs
    values[1::3] *= 10.0 ** torch.randint(-30, 30, (1000,), generator=generator).to(dtype)
    ranks = [1, 2, 999, 1500, 2400, 3000]
    expected = [float(values.kthvalue(values.numel() - k + 1).values) for k in ranks]
    for found in together(3, _selected, tmp_path, values, ranks):
        assert found == expected


def test_the_kth_smallest_reads_digits_of_either_sign():
    numbers = torch.tensor([-(2**63), -1, 0, 1, 2**40, 2**63 - 1, 7, 7])
    ordered = numbers.sort().values.tolist()
    assert [kth_smallest(k + 1, lambda: [numbers], 64, Ranks.single()) for k in range(8)] == ordered
