"""Sparsity of the weights that a Trainer evaluates outside a fit, counted from their zeros."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info

from lightning_dynprune.engine import Pruner, Settings
from lightning_dynprune.masks import MaskSet
from lightning_dynprune.targets import find_targets


@dataclass(frozen=True)
class EvaluatedWeights:
    """Sparsity of weights that are not those of the last fit.

    Attributes:
        sparsity: share of zeros, over the targets.
        layer_sparsity: share of zeros, by target.
    """

    sparsity: float
    layer_sparsity: dict[str, float]


@torch.no_grad()
def evaluated_weights(
    trainer: Any, module: torch.nn.Module, pruner: Pruner | None, settings: Settings
) -> EvaluatedWeights | None:
    """Count the zeros of weights that are about to be evaluated; None if they are those that the fit ended with.

    Entries that the pruner of the fit has slimmed away count as zeros.

    Args:
        trainer: in ``on_test_start`` or the like; all processes call this.
        module: the model.
        pruner: of the last fit; None: there was none in this process, and the targets are found by the settings.
        settings: of the pruning.
    """
    if pruner is not None and trainer.ckpt_path is None and _fit_masks(pruner):
        return None
    masks = _new_masks(module, settings) if pruner is None else pruner.masks
    if masks is None:
        return None
    whole = masks.original_numel
    kept = masks.count(target.values != 0 for target in masks.targets)
    by_layer = {t.name: (n - k) / n if n else 0.0 for t, n, k in zip(masks.targets, whole, kept, strict=True)}
    sparsity = (sum(whole) - sum(kept)) / sum(whole)
    if pruner is not None and kept != masks.kept:
        rank_zero_info(
            f"dynprune: the evaluated weights are at sparsity {sparsity:.4f} and those of the fit at "
            f"{pruner.sparsity:.4f}; sparsity and layer_sparsity are of the evaluated ones, masks of the fit"
        )
    return EvaluatedWeights(sparsity, by_layer)


def _fit_masks(pruner: Pruner) -> bool:
    """Return whether a pruner's weights are zero wherever its masks are, in all processes."""
    masks = pruner.masks
    pairs = zip(masks.targets, masks.tensors, strict=True)
    return not any(masks.count((t.values != 0) & mask.to(t.values.device).logical_not() for t, mask in pairs))


def _new_masks(module: torch.nn.Module, settings: Settings) -> MaskSet | None:
    """Return masks of the targets that a fit would have; None if there would be none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return MaskSet(find_targets(module, settings.targets, settings.exclude))
        except ValueError:
            return None
