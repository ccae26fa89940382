"""Latent weights: exact moves between a parameter and what waits behind its mask."""

from __future__ import annotations

import io

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lightning_dynprune.engine import Pruner
from lightning_dynprune.masks import LatentWeights, MaskSet
from lightning_dynprune.targets import Target

BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().contiguous().view(BITS[tensor.element_size()])


def latent_of(*values: torch.Tensor) -> tuple[LatentWeights, MaskSet]:
    masks = MaskSet([Target(str(i), nn.Parameter(value)) for i, value in enumerate(values)])
    latent = LatentWeights(masks)
    latent.allocate()
    return latent, masks


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_taking_out_and_adding_back_keeps_every_bit(dtype, layout):
    torch.manual_seed(0)
    special = [0.0, -0.0, torch.finfo(dtype).tiny, torch.finfo(dtype).max, -torch.finfo(dtype).max, 1.0]
    values = torch.cat([torch.tensor(special, dtype=dtype), torch.randn(3 * 4 * 9 - 6).to(dtype)])
    values = values.view(3, 4, 3, 3).contiguous(memory_format=layout)
    latent, masks = latent_of(values.clone())
    parameter, state = masks.targets[0].parameter, masks.targets[0].state
    keep = (torch.arange(108) % 2 == 0).view(3, 4, 3, 3)
    latent.join(0)
    masks.write(0, [keep.reshape(-1)])
    latent.split(0)
    zero = torch.zeros_like(bits(values))
    assert torch.equal(bits(parameter), torch.where(keep, bits(values), zero))
    assert torch.equal(bits(state["latent"]), torch.where(keep, zero, bits(values)))
    latent.join(0)
    assert torch.equal(bits(parameter), bits(values))
    # Another mask, and back.
    masks.write(0, [~keep.reshape(-1)])
    latent.split(0)
    assert torch.equal(bits(parameter), torch.where(keep, zero, bits(values)))
    latent.join(0)
    assert torch.equal(bits(parameter), bits(values))


def test_moves_repeated_change_nothing():
    latent, masks = latent_of(torch.tensor([1.0, 2.0, -3.0]))
    parameter, state = masks.targets[0].parameter, masks.targets[0].state
    latent.join(0)
    masks.write(0, [torch.tensor([True, False, True])])
    for _ in range(2):
        latent.split(0)
    assert (parameter.tolist(), state["latent"].tolist()) == ([1.0, 0.0, -3.0], [0.0, 2.0, 0.0])
    for _ in range(2):
        latent.join(0)
    assert parameter.tolist() == [1.0, 2.0, -3.0]


def test_a_mask_that_keeps_all_leaves_nothing_behind():
    latent, masks = latent_of(torch.tensor([1.0, 2.0]))
    latent.join(0)
    masks.write(0, [torch.tensor([True, False])])
    latent.split(0)
    latent.join(0)
    masks.write(0, [torch.tensor([True, True])])
    latent.split(0)
    assert masks.targets[0].parameter.tolist() == [1.0, 2.0]
    assert masks.targets[0].state["latent"].tolist() == [0.0, 0.0]


@settings(max_examples=40, deadline=None)
@given(
    values=st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=24),
    masks_drawn=st.lists(st.integers(0, 2**24 - 1), min_size=1, max_size=6),
)
def test_any_masks_in_any_order_lose_no_bit(values, masks_drawn):
    weight = torch.tensor(values, dtype=torch.float32)
    latent, masks = latent_of(weight.clone())
    for drawn in masks_drawn:
        latent.join(0)
        assert torch.equal(bits(masks.targets[0].parameter), bits(weight))
        keep = torch.tensor([bool(drawn >> i & 1) for i in range(len(values))])
        masks.write(0, [keep])
        latent.split(0)
        assert not bits(masks.targets[0].parameter)[~keep].any()
        assert not bits(masks.targets[0].state["latent"])[keep].any()


class Run:
    """A network with latent weights in some type and layout."""

    def __init__(self, dtype: torch.dtype) -> None:
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(64, 5)).to(dtype)
        self.net[0].to(memory_format=torch.channels_last)
        self.sgd = torch.optim.SGD(self.net.parameters(), lr=0.05, momentum=0.9)
        schedule = {"name": "constant", "begin": 2, "end": 20, "every": 2}
        self.pruner = Pruner(self.net, self.sgd, sparsity=0.7, strategy="surgery", schedule=schedule)
        self.dtype = dtype

    def step(self, number: int) -> None:
        x = torch.randn(8, 1, 6, 6, generator=torch.Generator().manual_seed(number)).to(self.dtype)
        self.sgd.zero_grad()
        self.net(x).square().mean().backward()
        self.sgd.step()
        self.pruner.tick()

    def state(self) -> dict:
        return {"net": self.net.state_dict(), "sgd": self.sgd.state_dict(), "pruner": self.pruner.state_dict()}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_a_kill_in_mid_run_loses_no_bit_of_what_waits_behind_the_masks(dtype):
    unbroken = Run(dtype)
    for number in range(20):
        unbroken.step(number)
    killed = Run(dtype)
    for number in range(9):
        killed.step(number)
    file = io.BytesIO()
    torch.save(killed.state(), file)
    state = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    resumed = Run(dtype)
    for parameter in resumed.net.parameters():
        nn.init.constant_(parameter, 7.0)
    resumed.net.load_state_dict(state["net"])
    resumed.sgd.load_state_dict(state["sgd"])
    resumed.pruner.load_state_dict(state["pruner"])
    for number in range(9, 20):
        resumed.step(number)
    for mine, other in zip(resumed.pruner.targets, unbroken.pruner.targets, strict=True):
        assert other.state["latent"].any()
        assert torch.equal(bits(mine.state["latent"]), bits(other.state["latent"]))
        assert torch.equal(bits(mine.parameter), bits(other.parameter))


def test_gradients_reach_pruned_entries_and_move_what_waits_there():
    run = Run(torch.float32)
    for number in range(3):
        run.step(number)
    target, mask = run.pruner.targets[1], run.pruner.masks.tensors[1]
    before = target.state["latent"].clone()
    run.step(3)
    assert target.parameter.grad[~mask].any()
    moved = (target.state["latent"] != before)[~mask & ~run.pruner.masks.tensors[1]]
    assert moved.float().mean() > 0.9


def test_latent_weights_take_as_many_bytes_as_the_parameter():
    for dtype in DTYPES:
        latent, masks = latent_of(torch.zeros(10, 10, dtype=dtype))
        latent.join(0)
        assert masks.targets[0].state["latent"].nbytes == 100 * dtype.itemsize
