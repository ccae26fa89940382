"""The sparsity of each layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_dynprune.metrics.counting import exact, named_masks


def layer_sparsity(masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    r"""Return the share of pruned connections of each layer.

    .. math:: s_l = \frac{|\{i : m_{l,i} = 0\}|}{N_l}

    Args:
        masks: target name -> bool tensor of any shape, True = kept.

    Returns:
        Name -> zero-dimensional float64 in [0, 1], on the mask's device; NaN for a mask without entries.

    Raises:
        TypeError: ``masks`` is not a mapping, or an entry is not a bool tensor.
        ValueError: there are no masks, or no mask has any entries.

    Example:
        >>> import torch
        >>> masks = {"a.weight": torch.tensor([True, False]), "b.weight": torch.tensor([True])}
        >>> {name: share.item() for name, share in layer_sparsity(masks).items()}
        {'a.weight': 0.5, 'b.weight': 0.0}

    Source: the definition of sparsity in Zhu and Gupta, "To prune, or not to prune", 2017, for one layer.
    """
    return {
        name: exact(mask.numel() - torch.count_nonzero(mask)) / mask.numel() for name, mask in _checked(masks).items()
    }


def _checked(masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if not isinstance(masks, Mapping):
        raise TypeError(f"masks={masks!r} is not accepted; give a mapping of target names to bool tensors")
    return named_masks(masks)


class LayerSparsity(Metric):
    r"""Computes the share of pruned connections of each named layer, over all updates.

    .. math:: s_l = \frac{|\{i : m_{l,i} = 0\}|}{N_l}

    ``update`` takes ``masks``: target name -> bool tensor of any shape, True = kept, with exactly the names
    given here. ``compute`` returns name -> zero-dimensional float64 in [0, 1], in the order of ``names``.

    Args:
        names: names of the targets to report, without repetition.
        **kwargs: settings of every torchmetrics metric, such as ``dist_sync_on_step``.

    Raises:
        TypeError: ``names`` contains something other than strings; at ``update``, an entry is not a bool tensor.
        ValueError: ``names`` is empty or repeats a name; at ``update``, a name is missing or not among them.

    Example:
        >>> import torch
        >>> metric = LayerSparsity(["a.weight", "b.weight"])
        >>> metric.update({"a.weight": torch.tensor([True, False]), "b.weight": torch.tensor([True])})
        >>> {name: share.item() for name, share in metric.compute().items()}
        {'a.weight': 0.5, 'b.weight': 0.0}

    Source: the definition of sparsity in Zhu and Gupta, "To prune, or not to prune", 2017, for one layer.
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    pruned: Tensor
    connections: Tensor

    def __init__(self, names: Sequence[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if isinstance(names, str) or not all(isinstance(name, str) for name in names):
            raise TypeError(f"names={names!r} is not accepted; give a sequence of target names")
        if not names or len(set(names)) != len(names):
            raise ValueError(f"names={list(names)!r} is not accepted; give target names, each once")
        self.names = tuple(names)
        self.add_state("pruned", torch.zeros(len(names), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("connections", torch.zeros(len(names), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, masks: Mapping[str, Tensor]) -> None:
        """Add the counts of each layer's mask (True = kept)."""
        found = _checked(masks)
        missing = [name for name in self.names if name not in found]
        unknown = [name for name in found if name not in self.names]
        if missing or unknown:
            raise ValueError(
                f"masks lacks {missing} and has {unknown} beyond names; give one mask for each of {list(self.names)}"
            )
        device = self.pruned.device
        for position, name in enumerate(self.names):
            mask = found[name]
            self.pruned[position] += mask.numel() - torch.count_nonzero(mask).to(device)
            self.connections[position] += mask.numel()

    def compute(self) -> dict[str, Tensor]:
        """Return name -> share of pruned connections over all updates, float64."""
        shares = exact(self.pruned) / self.connections
        return dict(zip(self.names, shares.unbind(), strict=True))
