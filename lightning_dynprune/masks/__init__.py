"""Masks: apply, count and pack them; latent weights behind them; the optimizers' slots under them.

May import targets, distributed and base.
"""

from lightning_dynprune.masks.latent import LATENT, LatentWeights
from lightning_dynprune.masks.mask_set import PIECE, MaskSet, pack_bits, select, unpack_bits, without_scratch_bit
from lightning_dynprune.masks.optimizer_slots import Stayed, applied, carry, clear, trains

__all__ = [
    "LATENT",
    "PIECE",
    "LatentWeights",
    "MaskSet",
    "Stayed",
    "applied",
    "carry",
    "clear",
    "pack_bits",
    "select",
    "trains",
    "unpack_bits",
    "without_scratch_bit",
]
