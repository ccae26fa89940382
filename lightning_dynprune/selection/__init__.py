"""Scores of a target, and the exact k-th score over many tensors, sharded or not.

May import masks and the rooms below it.
"""

from lightning_dynprune.selection.exact_cut import Cut, cut, cut_above, cut_each
from lightning_dynprune.selection.scores import Scores, moments, require_finite, widened

__all__ = ["Cut", "Scores", "cut", "cut_above", "cut_each", "moments", "require_finite", "widened"]
