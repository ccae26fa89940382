"""Masks of units that span several targets, such as channels, and their update.

May import what engine may.
"""

from lightning_dynprune.engine.coupled.coupled_masks import GroupMasks
from lightning_dynprune.engine.coupled.coupled_update import revise_groups

__all__ = ["GroupMasks", "revise_groups"]
