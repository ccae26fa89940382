"""Scores of targets, and the exact k-th score over many tensors, sharded or not.

May import masks and the rooms below it.
"""

from lightning_dynprune.selection.count_search import nearest_count
from lightning_dynprune.selection.cut_result import Cut
from lightning_dynprune.selection.exact_cut import cut, cut_above, cut_each
from lightning_dynprune.selection.scores import Scores, at_least_float32, check_finite, moments

__all__ = [
    "Cut",
    "Scores",
    "at_least_float32",
    "check_finite",
    "cut",
    "cut_above",
    "cut_each",
    "moments",
    "nearest_count",
]
