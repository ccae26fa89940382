"""Copies of a network that have the first channels of each coupled group, in order of importance."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_dynprune.adaptive.distilled_fit import plain_copy
from lightning_dynprune.base import name_some
from lightning_dynprune.coupling import Axis, Group, Narrowing, coupled_groups


@torch.no_grad()
def narrow_copies(model: nn.Module, example: Any, widths: Sequence[float]) -> list[nn.Module]:
    """Return copies of a network with shares of the channels of each coupled group, all of whose parameters train.

    The channels of a width are a prefix of all channels, which are sorted by importance, so that a narrower copy has a
    part of the channels of a wider one. Each copy has batch norms, and statistics, of its own.

    Args:
        model: the network, in eval mode; it is not changed.
        example: inputs of at least one sample.
        widths: shares of the channels, in (0, 1); of a group at least one channel stays.

    Raises:
        ValueError: the network has no channels that can be removed; the message says why.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 2)).eval()
        >>> half, = narrow_copies(net, torch.zeros(1, 1, 3, 3), [0.5])
        >>> half[0].weight.shape[0], half[1].num_features, half[3].in_features
        (4, 4, 4)
    """
    plain = plain_copy(model)
    coupling = coupled_groups(plain, example)
    groups = [group for group in coupling.groups if not group.modules]
    if not groups:
        reasons = [f"{name} ({reason})" for name, reason in coupling.left_out.items()]
        raise ValueError(
            f"prefix_width: no channels of {type(model).__name__} can be removed: {name_some(reasons, most=3)}"
        )
    order = [importance(plain, group).argsort(descending=True, stable=True) for group in groups]
    copies = []
    for width in widths:
        narrow = copy.deepcopy(plain)
        kept = [
            torch.zeros(group.units, dtype=torch.bool).index_fill_(0, first[: math.ceil(width * group.units)], True)
            for group, first in zip(groups, order, strict=True)
        ]
        Narrowing(narrow).narrow(groups, kept)
        for parameter in narrow.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        copies.append(narrow)
    return copies


def importance(model: nn.Module, group: Group) -> Tensor:
    r"""Return how much each unit of a group contributes, float64 ``(units,)``.

    .. math:: I_u = \sum_t \frac{\lVert W_{t,u} \rVert_2}{\frac{1}{U} \sum_v \lVert W_{t,v} \rVert_2}

    over the parameters t that write or read the U units, scales of norms among them.

    Source: the norm of filters as in Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017.
    """
    total = torch.zeros(group.units, dtype=torch.float64)
    parameters = dict(model.named_parameters())
    for axis in group.axes:
        if axis.name in parameters and not axis.name.endswith(".bias"):
            norms = _unit_norms(parameters[axis.name].detach(), axis)
            total += norms / norms.mean().clamp(min=torch.finfo(torch.float64).tiny)
    return total


def fitted_to(model: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Return a copy of a network that is narrowed to the shapes of a narrow copy's state dict.

    Args:
        model: the network that the narrow copy was made of; it is not changed.
        tensors: state dict of the narrow copy.

    Raises:
        KeyError: a tensor is missing.
        RuntimeError: a tensor does not fit.
    """
    narrow = plain_copy(model)
    change = Narrowing(narrow)
    persistent = narrow.state_dict()
    for name, own in change.tensors.items():
        if name in persistent and tensors[name].shape != own.shape:
            if tensors[name].dim() != own.dim():
                raise RuntimeError(f"{name} has the shape {tuple(tensors[name].shape)}, not {tuple(own.shape)}")
            change.set(name, own.data[tuple(slice(size) for size in tensors[name].shape)].clone())
    change.update_widths()
    for parameter in narrow.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    return narrow


def _unit_norms(tensor: Tensor, axis: Axis) -> Tensor:
    rows = tensor.double().movedim(axis.dim, 0).flatten(1) if tensor.dim() > 1 else tensor.double()[:, None]
    squares = rows.square().sum(1).cpu()
    return squares[axis.index].sum(1).sqrt()
