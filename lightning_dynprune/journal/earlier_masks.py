"""Restore earlier masks from the masks in use and the recorded flips, all packed to bits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_dynprune.base import count_true, true_positions
from lightning_dynprune.journal.delta import Delta
from lightning_dynprune.masks import MaskSet, pack_bits, unpack_bits


def packed_mask_before(masks: MaskSet, position: int, record: Sequence[Sequence[Delta]]) -> Tensor:
    """Return one target's mask as it was before the recorded updates, packed.

    Args:
        masks: the masks after these updates.
        position: index of the target.
        record: the deltas of the last updates, one per target.
    """
    packed = pack_bits(masks.tensors[position])
    for deltas in record:
        packed ^= deltas[position].packed(masks.targets[position].name)
    return packed


def pruned_since(masks: MaskSet, position: int, record: Sequence[Sequence[Delta]]) -> tuple[Tensor, Tensor]:
    """Return the connections kept before the recorded updates and pruned now: flat indices, values when first dropped.

    Args:
        masks: the masks after these updates.
        position: index of the target.
        record: the deltas of the last updates, one per target, with values.

    Raises:
        ValueError: the masks are not those that the updates resulted in.
    """
    target = masks.targets[position]
    mask = packed_mask_before(masks, position, record)
    missing = mask & ~pack_bits(masks.tensors[position])
    found = [torch.zeros(0, dtype=torch.int64)]
    remembered = [target.parameter.detach().new_zeros(0, device="cpu")]
    for deltas in record:
        flips, values = deltas[position].packed(target.name), deltas[position].values
        dropped = mask & flips
        cut = true_positions(unpack_bits(dropped, target.numel, target.name))
        if values is None or cut.numel() != values.numel():
            raise ValueError(f"journal of {target.name}: the masks are not those that were recorded")
        first = true_positions(unpack_bits(missing, target.numel, target.name).index_select(0, cut))
        found.append(cut.index_select(0, first))
        remembered.append(values.index_select(0, first))
        missing &= ~dropped
        mask ^= flips
    index, order = torch.cat(found).sort()
    return index, torch.cat(remembered).index_select(0, order)


def count_returned(masks: MaskSet, position: int, record: Sequence[Sequence[Delta]]) -> int:
    """Return how many kept connections of one target were pruned at some time since the record begins.

    Args:
        masks: the masks after these updates.
        position: index of the target.
        record: the deltas of the last updates, one per target.
    """
    target = masks.targets[position]
    flipped = torch.zeros((target.numel + 7) // 8, dtype=torch.uint8)
    for deltas in record:
        flipped |= deltas[position].packed(target.name)
    # A connection that is kept now and flipped before was pruned in between.
    return int(count_true(unpack_bits(flipped & pack_bits(masks.tensors[position]), target.numel, target.name)))
