"""The checksum of a mask: of its entries, their places and their number."""

from __future__ import annotations

import pytest
import torch

from lightning_dynprune.distributed import checksums, mask_checksum


def reference(mask: list[bool]) -> int:
    """Return the checksum by Python's integers: words of eight entries, mixed with their position and added up."""

    def signed(number: int) -> int:
        number %= 2**64
        return number - 2**64 if number >= 2**63 else number

    padded = mask + [False] * (-len(mask) % 8)
    total = len(mask)
    for position, first in enumerate(range(0, len(padded), 8)):
        word = sum(entry << (8 * place) for place, entry in enumerate(padded[first : first + 8]))
        mixed = signed((word + position * 0x9E3779B97F4A7C15) * 0xBF58476D1CE4E5B9)
        mixed = signed((mixed ^ (mixed >> 29)) * 0x94D049BB133111EB)
        total += mixed ^ (mixed >> 32)
    return signed(total)


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 16, 41])
def test_it_is_the_sum_of_mixed_words(size):
    mask = torch.rand(size, generator=torch.Generator().manual_seed(size)) < 0.5
    assert mask_checksum(mask) == reference(mask.tolist())


@pytest.mark.parametrize("size", [8, 24, 40, 41])
def test_it_does_not_depend_on_the_pieces_in_which_it_is_read(size, monkeypatch):
    mask = torch.rand(size, generator=torch.Generator().manual_seed(size)) < 0.5
    whole = mask_checksum(mask)
    monkeypatch.setattr(checksums, "_CHUNK_SIZE", 16)
    assert mask_checksum(mask) == whole


def test_words_that_change_places_change_it():
    one, other = torch.tensor([True] * 8 + [False] * 8), torch.tensor([False] * 8 + [True] * 8)
    assert mask_checksum(one) != mask_checksum(other)


def test_it_is_read_in_row_major_order_whatever_the_layout():
    mask = torch.tensor([[True, False, False], [True, True, False]])
    assert mask_checksum(mask.t().contiguous().t()) == mask_checksum(mask)
    assert mask_checksum(mask.t()) != mask_checksum(mask)


def test_a_view_that_begins_inside_a_word_counts_like_its_copy():
    mask = torch.rand(64, generator=torch.Generator().manual_seed(3)) < 0.5
    assert mask_checksum(mask[3:59]) == mask_checksum(mask[3:59].clone())


def test_entries_that_are_false_count_by_their_number():
    assert mask_checksum(torch.zeros(5, dtype=torch.bool)) != mask_checksum(torch.zeros(6, dtype=torch.bool))
