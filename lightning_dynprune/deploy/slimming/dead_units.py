"""Find units that can be removed from a model without changing its outputs, whatever its inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from lightning_dynprune.coupling import Group, Narrowing
from lightning_dynprune.deploy.slimming.constant_inputs import ConstantInputs, readers, units_are_zero

# Layers whose bias can absorb a constant input; a subclass may pad or scale inside its forward.
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_FOLDABLE = (nn.Linear, *_CONVOLUTIONS)


def dead_units(model: nn.Module, groups: Sequence[Group], constants: ConstantInputs, fold: bool) -> list[Tensor]:
    """Return for each group the units that can be removed: bool ``(units,)``.

    A unit can be removed where every layer that reads it has zeros in the columns that do, or reads a zero; or, with
    ``fold``, a constant that its bias can absorb.
    """
    found = []
    for group in groups:
        dead = torch.ones(group.units, dtype=torch.bool)
        for axis in readers(group):
            layer = axis.name.rpartition(".")[0]
            constant = constants.of(layer)[axis.index]
            goes = constant.isfinite() if fold and can_fold(model.get_submodule(layer)) else constant == 0
            dead &= goes.all(dim=1) | units_are_zero(model.get_parameter(axis.name), axis)
        found.append(dead)
    return found


def constant_units(
    model: nn.Module, groups: Sequence[Group], constants: ConstantInputs
) -> Iterator[tuple[Group, str, int]]:
    """Yield the layers that read constants which their bias cannot absorb: (group, layer, number of units)."""
    for group in groups:
        for axis in readers(group):
            layer = axis.name.rpartition(".")[0]
            constant = constants.of(layer)[axis.index]
            stuck = constant.isfinite().all(dim=1) & ~(constant == 0).all(dim=1)
            if not stuck.any() or can_fold(model.get_submodule(layer)):
                continue
            stuck &= ~units_are_zero(model.get_parameter(axis.name), axis)
            if stuck.any():
                yield group, layer, int(stuck.sum())


def fold_constants(
    change: Narrowing, groups: Sequence[Group], dead: Sequence[Tensor], constants: ConstantInputs
) -> dict[str, int]:
    r"""Add to biases what dead units of a constant value ``c`` contribute: :math:`b \mathrel{+}= W_{:,u}\,c_u`.

    Returns:
        Layer -> number of units that its bias absorbed.
    """
    folded: dict[str, int] = {}
    for group, gone in zip(groups, dead, strict=True):
        for axis in readers(group):
            layer = axis.name.rpartition(".")[0]
            units = gone & (constants.of(layer)[axis.index] != 0).any(dim=1)
            if not units.any():
                continue
            units &= ~units_are_zero(change.tensors[axis.name], axis)
            if not units.any():
                continue
            positions = axis.index[units].flatten()
            weight, bias = change.tensors[axis.name].detach(), change.tensors[f"{layer}.bias"]
            columns = weight.index_select(1, positions.to(weight.device)).double().cpu()
            sums = columns.flatten(2).sum(dim=2) if columns.dim() > 2 else columns
            total = bias.detach().double().cpu() + sums @ constants.of(layer)[positions]
            change.set(f"{layer}.bias", total.to(bias.device, bias.dtype), bias.grad)
            folded[layer] = folded.get(layer, 0) + int(units.sum())
    return folded


def dead_heads(model: nn.Module, groups: Sequence[Group]) -> list[Tensor]:
    """Return the heads whose queries, keys and values are zero, or whose outputs no column reads: bool ``(units,)``.

    A query head that shares its values with others has an output whatever its queries are, so only the columns count.
    """
    if not groups:
        return []
    tensor = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    found = []
    for group in groups:
        unread, unwritten = torch.ones(2, group.units, dtype=torch.bool)
        unwritten &= not group.share_values
        for axis in group.axes:
            if not axis.is_table:
                (unwritten if axis.writes else unread).logical_and_(units_are_zero(tensor[axis.name], axis))
        found.append(unread | unwritten)
    return found


def can_fold(module: nn.Module) -> bool:
    """Return whether a layer's bias can absorb constant inputs exactly: it must not pad its input with zeros."""
    if type(module) not in _FOLDABLE or module.bias is None:
        return False
    if not isinstance(module, _CONVOLUTIONS) or module.padding_mode != "zeros" or module.padding == "valid":
        return True
    return module.padding != "same" and not any(module.padding)
