"""Find groups of channels by following an example through the model."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from lightning_dynprune.coupling.graph import WrittenChannels, written_channels
from lightning_dynprune.coupling.group import Axis, Coupling, CouplingError, Group
from lightning_dynprune.coupling.isolation import isolated
from lightning_dynprune.coupling.layers import CHANNELWISE_TENSORS, column_dim, is_channelwise, mixes_channels, row_dim
from lightning_dynprune.coupling.probe import MIXED, OUTPUT, ChannelReads, probe_reads
from lightning_dynprune.coupling.verify import failing_groups


def coupled_groups(model: nn.Module, example_input: Any, *, exclude: str | Sequence[str] = ()) -> Coupling:
    """Return the groups of channels that can be removed from a model, each only as a whole.

    Torch-Pruning's dependency graph gives the layers that write into the same channels. The layers that read them are
    found by changing channels and comparing the inputs of all layers. Finally the model is run with half of all
    channels removed and compared with the same model with these channels zero; only groups for which both agree are
    returned. Left out, with the reason, are the model's outputs, channels that a layer norm or a softmax mixes, grouped
    convolutions, attention (see :func:`attention_heads`), recurrent layers, embeddings, tied weights, and parameters
    that no known layer type owns.

    The model is run in eval mode; parameters, modes, gradients, buffers and random states are restored.

    Args:
        model: the network.
        example_input: a tensor, a tuple or list of arguments, or a dict of keyword arguments; on the model's device.
        exclude: globs on parameter names; groups with a matching parameter are left out.

    Raises:
        CouplingError: the model does not run on the example, or cannot be traced; or a glob matches no parameter.
        ImportError: torch-pruning is missing.

    Source: Fang et al., "DepGraph: Towards Any Structural Pruning" (2023), for the graph.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
        >>> group, = coupled_groups(net, torch.zeros(1, 1, 4, 4)).groups
        >>> group.units, [(axis.name, axis.dim, tuple(axis.index.shape)) for axis in group.axes if not axis.writes]
        (4, [('4.weight', 1, (4, 4))])
    """
    excluded = _excluded(model, [exclude] if isinstance(exclude, str) else exclude)
    tied = _tied(model)
    coupling = Coupling([])
    with isolated(model), torch.enable_grad():
        every = written_channels(model, example_input)
        candidates = [written for written in every if not written.reason]
        coupling.left_out.update({_name(w): w.reason for w in every if w.reason})
        reads = probe_reads(model, example_input, [w.writers for w in candidates], [w.units for w in candidates])
        start = 0
        for position, written in enumerate(candidates):
            try:
                group = _group(model, written, reads, reads.touched[position], start)
                _check_allowed(group, excluded, tied)
                coupling.groups.append(group)
            except CouplingError as reason:
                coupling.left_out[_name(written)] = str(reason)
            start += written.units
        # Verification changes tensors in place, so no autograd graph may still need them.
        failed = failing_groups(model, example_input, coupling.groups)
    coupling.left_out.update(failed)
    coupling.groups[:] = [group for group in coupling.groups if group.name not in failed]
    return coupling


def _group(model: nn.Module, written: WrittenChannels, reads: ChannelReads, touched: set[str], start: int) -> Group:
    """Return the group of the channels that some layers write.

    Raises:
        CouplingError: the channels cannot be removed; the message gives the reason.
    """
    if OUTPUT in touched:
        raise CouplingError("they are the model's outputs, or reach them through a layer of an unknown type")
    every = torch.arange(written.units).unsqueeze(1)
    axes = []
    for name in written.writers:
        module = model.get_submodule(name)
        axes.append(Axis(_join(name, "weight"), row_dim(module), True, every))
        if module.bias is not None:
            axes.append(Axis(_join(name, "bias"), 0, True, every))
    readers = 0
    for name, module in model.named_modules():
        if name not in touched:
            continue
        if not (mixes_channels(module) or is_channelwise(module)):
            raise CouplingError(f"{type(module).__name__} {name!r} reads them, and it needs all or mixes them")
        units = reads.units[name]
        if (units == MIXED).any():
            raise CouplingError(f"{type(module).__name__} {name!r} reads them mixed with one another")
        index = _index(units - start, written.units, name)
        if mixes_channels(module):
            readers += 1
            axes.append(Axis(_join(name, "weight"), column_dim(module), False, index))
        else:
            held = [local for local in CHANNELWISE_TENSORS if getattr(module, local, None) is not None]
            axes += [Axis(_join(name, local), 0, True, index) for local in held]
    if not readers:
        raise CouplingError("no layer reads them")
    return Group(axes[0].name, written.units, tuple(axes))


def _index(units: torch.Tensor, count: int, name: str) -> torch.Tensor:
    """Return the positions that read each unit, ``(count, width)``, given the unit that each position reads."""
    positions = ((units >= 0) & (units < count)).nonzero().flatten()
    per_unit = torch.bincount(units[positions], minlength=count)
    if per_unit.min() != per_unit.max() or not per_unit.min():
        raise CouplingError(f"{name!r} reads some of them more often than others")
    return positions[units[positions].argsort(stable=True)].view(count, -1)


def _check_allowed(group: Group, excluded: set[str], tied: dict[str, str]) -> None:
    """Raise a CouplingError if a tensor of a group is excluded or tied."""
    for axis in group.axes:
        if axis.name in excluded:
            raise CouplingError(f"{axis.name!r} is excluded")
        if axis.name in tied:
            raise CouplingError(f"{axis.name!r} {tied[axis.name]}")


def _tied(model: nn.Module) -> dict[str, str]:
    """Return the names of tensors that cannot be narrowed on their own, with the reason."""
    names: dict[torch.Tensor, list[str]] = {}
    for name, tensor in (
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ):
        names.setdefault(tensor, []).append(name)
    tied = {n: f"is tied: {', '.join(shared)}" for shared in names.values() if len(shared) > 1 for n in shared}
    known = {name for shared in names.values() for name in shared}
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None) if mixes_channels(module) or is_channelwise(module) else None
        if weight is not None and _join(name, "weight") not in known:
            tied[_join(name, "weight")] = "is computed by a parametrization, and no tensor of its own"
    return tied


def _excluded(model: nn.Module, globs: Sequence[str]) -> set[str]:
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    excluded = set()
    for glob in globs:
        matched = {name for name in names if fnmatchcase(name, glob)}
        if not matched:
            raise CouplingError(f"exclude: {glob!r} matches no parameter of {type(model).__name__}")
        excluded |= matched
    return excluded


def _name(written: WrittenChannels) -> str:
    return _join(written.writers[0], "weight")


def _join(prefix: str, local: str) -> str:
    return f"{prefix}.{local}" if prefix else local
