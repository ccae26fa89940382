"""Masks of units that are coupled over several targets, such as channels, and their update.

May import what engine may.
"""

from lightning_dynprune.engine.coupled.coupled_masks import CoupledMasks

__all__ = ["CoupledMasks"]
