"""Masks: apply, count and pack them; latent weights behind them; the optimizers' slots under them.

May import targets, distributed and base.
"""

from lightning_dynprune.masks.latent import LATENT, LatentWeights
from lightning_dynprune.masks.mask_set import (
    CHUNK_SIZE,
    MaskSet,
    pack_bits,
    select_along,
    unpack_bits,
    without_scratch_bit,
)
from lightning_dynprune.masks.optimizer_slots import (
    KeptEntries,
    NarrowedSlots,
    applied_gradient,
    narrow_slots,
    optimizer_holds,
    reset_slots,
)

__all__ = [
    "CHUNK_SIZE",
    "LATENT",
    "KeptEntries",
    "LatentWeights",
    "MaskSet",
    "NarrowedSlots",
    "applied_gradient",
    "narrow_slots",
    "optimizer_holds",
    "pack_bits",
    "reset_slots",
    "select_along",
    "unpack_bits",
    "without_scratch_bit",
]
