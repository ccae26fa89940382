"""Find units that can be removed from a model without changing its outputs, whatever its inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lightning_dynprune.base import map_tensors, nested_tensors
from lightning_dynprune.coupling import Axis, Group, Narrowing, channel_dim, mixes_channels, row_dim, run_example

# Layers whose bias can absorb a constant input; a subclass may pad or scale inside its forward.
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_FOLDABLE = (nn.Linear, *_CONVOLUTIONS)
# Number of noise values after which a channel with nonzero weights is accepted as constant.
_NUM_VALUES = 64


class ConstantInputs:
    """Find the input channels of each layer whose value does not depend on the model's inputs.

    The model runs with noise in place of all outputs whose row of weights is not zero; an output whose row is zero
    equals its bias. A channel with one value everywhere and in every run is a constant. The first runs use large and
    small noise of either sign. While a channel with nonzero weights still looks constant, runs with noise of mixed
    signs and sizes follow, until at least 64 values have been tried for it, because an activation that is off for one
    value can be on for another.

    Args:
        model: the network, in eval mode.
        example_input: as for ``coupled_groups``.
        groups: the channels of interest.
    """

    def __init__(self, model: nn.Module, example_input: Any, groups: Sequence[Group]) -> None:
        self._model, self._groups = model, groups
        self._low: dict[str, Tensor] = {}
        self._high: dict[str, Tensor] = {}
        self._values: dict[nn.Module, int] = {}
        self._generator = torch.Generator().manual_seed(0)
        self._level: float | None = None
        handles = []
        for name, module in model.named_modules():
            if mixes_channels(module):
                handles.append(module.register_forward_pre_hook(partial(self._record_input, name), with_kwargs=True))
                handles.append(module.register_forward_hook(self._replace_output))
        try:
            for self._level in (1e4, -1e4, 1.0, -1.0):
                run_example(model, _add_noise(example_input, self._generator))
            self._level, runs = None, 0
            while self._has_suspects(runs):
                run_example(model, _add_noise(example_input, self._generator))
                runs += 1
        finally:
            for handle in handles:
                handle.remove()

    def of(self, name: str) -> Tensor:
        """Return the constant value of each input channel of a layer, NaN where there is none: float64, on the CPU."""
        low, high = self._low[name], self._high[name]
        return torch.where(low == high, low, torch.nan)

    def _has_suspects(self, runs: int) -> bool:
        """Return whether a channel with nonzero weights looks constant and needs more values of noise."""
        for group in self._groups:
            written, values = torch.zeros(group.units, dtype=torch.bool), _NUM_VALUES
            for axis in group.axes:
                layer, _, local = axis.name.rpartition(".")
                module = self._model.get_submodule(layer)
                if axis.writes and local == "weight" and mixes_channels(module):
                    written |= ~_units_are_zero(self._model.get_parameter(axis.name), axis)
                    values = min(values, self._values[module])
            if runs * values >= _NUM_VALUES:
                continue
            for axis in _readers(group):
                seen = self.of(axis.name.rpartition(".")[0])[axis.index]
                if (written & seen.isfinite().any(dim=1)).any():
                    return True
        return False

    def _record_input(self, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs = (nested_tensors(args) + nested_tensors(kwargs))[0].detach()
        rows = inputs.movedim(channel_dim(module), 0).flatten(1).double().cpu()
        low, high = rows.amin(dim=1), rows.amax(dim=1)
        self._low[name] = torch.minimum(low, self._low.get(name, low))
        self._high[name] = torch.maximum(high, self._high.get(name, high))

    def _replace_output(self, module: Any, args: Any, output: Tensor) -> Tensor:
        rows = module.weight.detach().movedim(row_dim(module), 0).flatten(1)
        shape = [1] * output.dim()
        shape[channel_dim(module)] = -1
        alive = (rows != 0).any(dim=1).view(shape)
        bias = rows.new_zeros(len(rows)) if module.bias is None else module.bias.detach()
        size = torch.rand(output.shape, generator=self._generator)
        if self._level is None:
            noise = 10 ** (6 * size - 2) * (2 * torch.randint(2, output.shape, generator=self._generator) - 1)
        else:
            noise = self._level * (0.5 + size)
        self._values[module] = output.numel() // len(rows)
        return torch.where(alive, noise.to(output.device, output.dtype), bias.view(shape).to(output.dtype))


def dead_units(model: nn.Module, groups: Sequence[Group], constants: ConstantInputs, fold: bool) -> list[Tensor]:
    """Return for each group the units that can be removed: bool ``(units,)``.

    A unit can be removed where every layer that reads it has zeros in the columns that do, or reads a zero; or, with
    ``fold``, a constant that its bias can absorb.
    """
    found = []
    for group in groups:
        dead = torch.ones(group.units, dtype=torch.bool)
        for axis in _readers(group):
            layer = axis.name.rpartition(".")[0]
            constant = constants.of(layer)[axis.index]
            goes = constant.isfinite() if fold and can_fold(model.get_submodule(layer)) else constant == 0
            dead &= goes.all(dim=1) | _units_are_zero(model.get_parameter(axis.name), axis)
        found.append(dead)
    return found


def constant_units(
    model: nn.Module, groups: Sequence[Group], constants: ConstantInputs
) -> Iterator[tuple[Group, str, int]]:
    """Yield the layers that read constants which their bias cannot absorb: (group, layer, number of units)."""
    for group in groups:
        for axis in _readers(group):
            layer = axis.name.rpartition(".")[0]
            constant = constants.of(layer)[axis.index]
            stuck = constant.isfinite().all(dim=1) & ~(constant == 0).all(dim=1)
            stuck &= ~_units_are_zero(model.get_parameter(axis.name), axis)
            if stuck.any() and not can_fold(model.get_submodule(layer)):
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
        for axis in _readers(group):
            layer = axis.name.rpartition(".")[0]
            units = gone & ~_units_are_zero(change.tensors[axis.name], axis)
            units &= (constants.of(layer)[axis.index] != 0).any(dim=1)
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
    tensor = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    found = []
    for group in groups:
        unread, unwritten = torch.ones(2, group.units, dtype=torch.bool)
        unwritten &= not group.share_values
        for axis in group.axes:
            if not axis.is_table:
                (unwritten if axis.writes else unread).logical_and_(_units_are_zero(tensor[axis.name], axis))
        found.append(unread | unwritten)
    return found


def can_fold(module: nn.Module) -> bool:
    """Return whether a layer's bias can absorb constant inputs exactly: it must not pad its input with zeros."""
    if type(module) not in _FOLDABLE or module.bias is None:
        return False
    if not isinstance(module, _CONVOLUTIONS) or module.padding_mode != "zeros" or module.padding == "valid":
        return True
    return module.padding != "same" and not any(module.padding)


def _readers(group: Group) -> list[Axis]:
    return [axis for axis in group.axes if not axis.writes]


def _units_are_zero(tensor: Tensor, axis: Axis) -> Tensor:
    """Return whether all of a unit's entries in a tensor are zero: bool ``(units,)``, on the CPU."""
    rows = tensor.detach().movedim(axis.dim, 0)
    zero = (rows == 0).flatten(1).all(dim=1) if rows.dim() > 1 else rows == 0
    return zero.cpu()[axis.index].all(dim=1)


def _add_noise(example_input: Any, generator: torch.Generator) -> Any:
    """Return an example input with noise added to its floating-point tensors."""

    def shift(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        return tensor + torch.randn(tensor.shape, generator=generator).to(tensor)

    return map_tensors(shift, example_input)
