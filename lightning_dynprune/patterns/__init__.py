"""Patterns: the unit that is kept or pruned together."""

from lightning_dynprune.patterns.base import PATTERNS, Pattern
from lightning_dynprune.patterns.element import Element

__all__ = ["PATTERNS", "Element", "Pattern"]
