"""Patterns: define the unit of connections that is kept or pruned together.

Imports coupling, targets and base.
"""

from lightning_dynprune.patterns.base import PATTERNS, Pattern, TargetPattern
from lightning_dynprune.patterns.block import Block
from lightning_dynprune.patterns.channel import Channel
from lightning_dynprune.patterns.coupled import AUTO, CoupledPattern
from lightning_dynprune.patterns.element import Element
from lightning_dynprune.patterns.head import Head
from lightning_dynprune.patterns.n_m import NM
from lightning_dynprune.patterns.unit_check import check_units

__all__ = [
    "AUTO",
    "NM",
    "PATTERNS",
    "Block",
    "Channel",
    "CoupledPattern",
    "Element",
    "Head",
    "Pattern",
    "TargetPattern",
    "check_units",
]
