"""Masks, the latent weights behind them, and the optimizer slots of the masked parameters.

May import targets, distributed and base.
"""

from lightning_dynprune.masks.latent import LATENT, LatentWeights
from lightning_dynprune.masks.layouts import CHUNK_SIZE, select_along
from lightning_dynprune.masks.mask_set import MaskSet, without_scratch_bit
from lightning_dynprune.masks.optimizer_slots import (
    KEEPS_SQUARED_GRADIENTS,
    KeptEntries,
    NarrowedSlots,
    applied_gradient,
    narrow_slots,
    optimizer_holds,
    reset_slots,
    squared_gradients,
)
from lightning_dynprune.masks.packing import pack_bits, unpack_bits

__all__ = [
    "CHUNK_SIZE",
    "KEEPS_SQUARED_GRADIENTS",
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
    "squared_gradients",
    "unpack_bits",
    "without_scratch_bit",
]
