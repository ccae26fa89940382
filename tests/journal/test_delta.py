"""Flips of one target as bytes, and back."""

from __future__ import annotations

import sys
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_dynprune.journal import Delta
from lightning_dynprune.masks import CHUNK_SIZE, pack_bits


def as_bytes(*values: int) -> bytes:
    return bytes(values)


def random_masks(numel: int, churn: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    before = torch.rand(numel, generator=generator) < 0.5
    return before, before ^ (torch.rand(numel, generator=generator) < churn)


def test_rare_flips_are_gaps_where_255_means_add_and_go_on():
    before = torch.ones(900, dtype=torch.bool)
    after = before.clone()
    after[[2, 3, 259, 515, 771]] = False
    delta = Delta.between(before, after)
    assert (delta.encoding, delta.deflated, delta.flipped) == ("gaps", False, 5)
    assert list(delta.data) == [2, 0, 255, 0, 255, 0, 255, 0]
    assert torch.equal(delta.packed(), pack_bits(before ^ after))


def test_frequent_flips_are_one_bit_a_connection():
    before = torch.tensor([True, True, False, False, True, True, True, True, False])
    after = torch.tensor([False, True, True, False, True, True, True, False, True])
    delta = Delta.between(before, after)
    assert (delta.encoding, delta.deflated, delta.flipped) == ("bits", False, 4)
    assert list(delta.data) == [0b10000101, 1]


@settings(deadline=None, max_examples=60)
@given(
    numel=st.integers(0, 3000),
    positions=st.lists(st.integers(0, 2999), max_size=120, unique=True),
    offset=st.integers(0, 9),
)
def test_any_flips_come_back_wherever_the_masks_lie_in_memory(numel, positions, offset):
    before = (torch.arange(numel + offset) % 3 == 0)[offset:]
    after = before.clone()
    inside = [position for position in positions if position < numel]
    after[inside] = ~after[inside]
    delta = Delta.between(before, after)
    assert delta.flipped == len(inside)
    assert torch.equal(delta.packed(), pack_bits(before ^ after))


@given(numel=st.integers(0, 80), offset=st.integers(0, 9), seed=st.integers(0, 99))
def test_bits_are_packed_as_numpy_packs_them_wherever_the_mask_lies_in_memory(numel, offset, seed):
    mask = (torch.rand(numel + offset, generator=torch.Generator().manual_seed(seed)) < 0.5)[offset:]
    assert pack_bits(mask).tolist() == np.packbits(mask.numpy(), bitorder="little").tolist()


@pytest.mark.parametrize("churn", [0.0, 0.00001, 0.002, 0.02, 0.05, 0.5, 1.0])
def test_flips_come_back_across_pieces(churn):
    before, after = random_masks(2 * CHUNK_SIZE + 5, churn)
    delta = Delta.between(before, after)
    assert delta.flipped == int((before ^ after).sum())
    assert torch.equal(delta.packed(), pack_bits(before ^ after))


@pytest.mark.parametrize(
    ("churn", "entropy", "most"), [(0.001, 0.0114, 0.014), (0.01, 0.0808, 0.082), (0.05, 0.2864, 0.302), (0.5, 1, 1)]
)
def test_scattered_flips_take_little_more_than_their_entropy(churn, entropy, most):
    before, after = random_masks(2**20, churn)
    bits = 8 * len(Delta.between(before, after).data) / 2**20
    assert 0.95 * entropy < bits <= most


def test_whole_rows_take_next_to_nothing():
    before = torch.ones(2000, 500, dtype=torch.bool)
    after = before.clone()
    for rows in (20, 200):
        after[torch.randperm(2000, generator=torch.Generator().manual_seed(0))[:rows]] = False
        assert 8 * len(Delta.between(before, after).data) < 0.01 * before.numel()


def test_positions_and_values_are_row_major_in_any_layout():
    before = torch.ones(2, 3, 2, 2, dtype=torch.bool).contiguous(memory_format=torch.channels_last)
    after = before.clone()
    after[0, 1, 0, 1] = after[1, 2, 1, 0] = False
    weight = torch.arange(24.0).view(2, 3, 2, 2).contiguous(memory_format=torch.channels_last)
    delta = Delta.between(before, after, weight.requires_grad_())
    assert torch.equal(delta.packed(), pack_bits((torch.arange(24) == 5) | (torch.arange(24) == 22)))
    assert delta.values.tolist() == [5.0, 22.0]
    assert not delta.values.requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_values_are_those_of_the_dropped_only_in_the_weights_dtype(dtype):
    before = torch.tensor([True, True, False, True])
    after = torch.tensor([False, True, True, False])
    delta = Delta.between(before, after, torch.tensor([1.5, 2.5, 3.5, 4.5], dtype=dtype))
    assert delta.values.dtype == dtype
    assert delta.values.tolist() == [1.5, 4.5]
    assert Delta.between(before, after).values is None


def test_masks_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"differ in shape: \[\(2,\), \(3,\), None\]"):
        Delta.between(torch.ones(2, dtype=torch.bool), torch.ones(3, dtype=torch.bool))


@pytest.mark.parametrize(
    ("delta", "message"),
    [
        (Delta("gaps", False, as_bytes(3, 7), 11, 2), "a flip lies past its 11 connections"),
        (Delta("gaps", False, as_bytes(3, 255), 600, 1), "1 flips where 1 are expected"),
        (Delta("gaps", False, as_bytes(3), 600, 2), "1 flips where 2 are expected"),
        (Delta("gaps", False, as_bytes(), 600, 601), "601 flips in 600 connections"),
        (Delta("gaps", False, as_bytes(), 600, -1), "-1 flips in 600 connections"),
        (Delta("bits", False, as_bytes(3), 8, 3), "2 flips where 3 are expected"),
        (Delta("bits", False, as_bytes(3), 9, 2), "does not hold 9 connections"),
        (Delta("bits", False, as_bytes(128), 7, 1), "bits are set past its 7 connections"),
        (Delta("bits", True, as_bytes(1, 2, 3), 8, 1), "cannot be inflated"),
        (Delta("gaps", True, as_bytes(*zlib.compress(bytes(4))[:-2]), 100, 4), "do not hold flips"),
        (Delta("gaps", True, as_bytes(*zlib.compress(bytes(4)), 0), 100, 4), "do not hold flips"),
    ],
)
def test_damaged_bytes_are_refused_by_name(delta, message):
    with pytest.raises(ValueError, match=rf"(journal|mask) of fc: .*{message}"):
        delta.packed("fc")
    with pytest.raises(ValueError, match=rf"(journal|mask) of fc: .*{message}"):
        delta.validate("fc")


@settings(deadline=None, max_examples=60)
@given(st.data(), st.sampled_from(["gaps", "bits"]), st.integers(0, 600), st.integers(0, 8))
def test_short_bytes_are_valid_where_positions_can_be_read_from_them(data, encoding, numel, flipped):
    values = st.sampled_from([0, 1, 3, 128, 255])
    delta = Delta(encoding, False, bytes(data.draw(st.lists(values, max_size=8))), numel, flipped)

    def raised(call) -> str:
        try:
            call()
        except ValueError as error:
            return str(error)
        return ""

    assert raised(delta.validate) == raised(delta.packed)


def test_bytes_that_inflate_to_far_more_than_the_target_are_refused_before_they_do(monkeypatch):
    bomb = zlib.compress(bytes(50_000_000), 9)
    taken = []
    inflate = zlib.decompressobj

    class Watched:
        def __init__(self):
            self.inner = inflate()

        def decompress(self, data, most):
            out = self.inner.decompress(data, most)
            taken.append(len(out))
            return out

        def __getattr__(self, name):
            return getattr(self.inner, name)

    monkeypatch.setattr(zlib, "decompressobj", Watched)
    with pytest.raises(ValueError, match="journal of fc: its bytes do not hold flips"):
        Delta("gaps", True, bomb, 1000, 7).packed("fc")
    assert taken == [11]


def test_a_delta_of_some_flips_takes_some_two_hundred_bytes():
    before = torch.zeros(1000, dtype=torch.bool)
    after = before.clone()
    after[[3, 500]] = True
    delta = Delta.between(before, after)
    assert not hasattr(delta, "__dict__")
    assert sys.getsizeof(delta) + sys.getsizeof(delta.data) < 250
