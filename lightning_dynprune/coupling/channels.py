"""Find groups of channels by following an example through the model."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from lightning_dynprune.coupling.experts import verified_experts
from lightning_dynprune.coupling.group import Coupling, CouplingError, Group
from lightning_dynprune.coupling.isolation import isolated
from lightning_dynprune.coupling.layers import is_channelwise, mixes_channels
from lightning_dynprune.coupling.tracing import Trace, traced_groups
from lightning_dynprune.coupling.verify import failing_groups


@torch.no_grad()
def coupled_groups(
    model: nn.Module,
    example_input: Any,
    *,
    exclude: str | Sequence[str] = (),
    writers: Collection[str] | None = None,
    verify: bool = True,
) -> Coupling:
    """Return the groups of channels that can be removed from a model, each only as a whole.

    One forward pass follows every channel from the layer that writes it to the layers that read it. Channels that are
    added or multiplied belong together, and so do the channels of one group of a grouped convolution, and those at the
    same position in equal parts, as ``chunk`` and channel shuffles make them. The hidden channels of experts whose
    weights are stacked in parameters of three dimensions (Mixtral) are removed in all experts alike. Finally the model
    is run with half of all channels removed and compared with the same model with these channels zero; only groups for
    which both agree are returned. Left out, with the reason, are the model's outputs, channels that a layer norm or a
    softmax mixes, attention (see :func:`attention_heads`), recurrent layers, embeddings, tied weights, and parameters
    that no known layer type owns.

    The model is run in eval mode; parameters, modes, gradients, buffers and random states are restored.

    Args:
        model: the network.
        example_input: a tensor, a tuple or list of arguments, or a dict of keyword arguments; on the model's device.
        exclude: globs on parameter names; groups with a matching parameter are left out, and modules all of whose
            parameters match are not followed.
        writers: names of the weights whose output channels may be removed, such as the targets of a pruner; channels
            of other layers are not followed. None for all.
        verify: whether to run the model without half of the channels; if False, compare the outputs yourself after
            channels are removed, and look for the cause of a difference by :func:`failing_groups`.

    Raises:
        CouplingError: the model does not run on the example, or runs too many operations to be followed; or a glob
            matches no parameter.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
        >>> group, = coupled_groups(net, torch.zeros(1, 1, 4, 4)).groups
        >>> group.units, [(axis.name, axis.dim, tuple(axis.index.shape)) for axis in group.axes if not axis.writes]
        (4, [('4.weight', 1, (4, 4))])
    """
    excluded = _excluded(model, [exclude] if isinstance(exclude, str) else exclude)
    layers = None if writers is None else {name.rpartition(".")[0] for name in writers}
    with isolated(model):
        trace = Trace(model, example_input, _closed(model, excluded), layers)
        coupling = traced_groups(model, trace)
        coupling.outputs.extend(trace.outputs)
        experts, stuck = verified_experts(model, example_input, writers)
        coupling.groups.extend(experts)
        coupling.left_out.update(stuck)
        tied = _tied(model)
        for group in [*coupling.groups]:
            if reason := _why_not(group, excluded, tied):
                coupling.left_out[group.name] = reason
                coupling.groups.remove(group)
        failed = failing_groups(model, example_input, coupling.groups) if verify else {}
    coupling.left_out.update(failed)
    coupling.groups[:] = [group for group in coupling.groups if group.name not in failed]
    return coupling


def _closed(model: nn.Module, excluded: set[str]) -> list[str]:
    """Return the modules all of whose parameters are excluded."""
    closed = []
    for name, module in model.named_modules() if excluded else ():
        held = [_join(name, local) for local, _ in module.named_parameters()]
        if held and excluded.issuperset(held):
            closed.append(name)
    return closed


def _why_not(group: Group, excluded: set[str], tied: dict[str, str]) -> str:
    """Return the tensor of a group that is excluded or tied, as a message; empty if there is none."""
    for axis in group.axes:
        if axis.name in excluded:
            return f"{axis.name!r} is excluded"
        if axis.name in tied:
            return f"{axis.name!r} {tied[axis.name]}"
    return ""


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


def _join(prefix: str, local: str) -> str:
    return f"{prefix}.{local}" if prefix else local
