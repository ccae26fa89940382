"""Groups of channels, made from the channels that a forward pass was seen to write, carry and read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_dynprune.base import CONVOLUTIONS
from lightning_dynprune.coupling.group import Axis, Coupling, Group
from lightning_dynprune.coupling.layers import CHANNELWISE_TENSORS, column_dim, mixes_channels, row_dim
from lightning_dynprune.coupling.trace import Trace


@dataclass(frozen=True)
class _Place:
    """Tensors of one layer in which channels have the same positions.

    Attributes:
        layer: its name.
        sets: for each position the smallest number of the set of channels that it belongs to.
        axes: local name of a tensor, its dimension.
        writes: whether the tensors determine the channels.
        begins: whether the layer mixes all its input channels, so that its channels begin there.
    """

    layer: str
    sets: Tensor
    axes: tuple[tuple[str, int], ...]
    writes: bool
    begins: bool = False


def traced_groups(model: nn.Module, trace: Trace) -> Coupling:
    """Return the groups of channels of a model; channels that cannot be removed are left out with the reason.

    Sets of channels that lie in the same tensors, in each as often, are the units of one group.

    Args:
        model: the network.
        trace: of the model.
    """
    refused = trace.units.retained()
    places = list(_places(model, trace))
    # For each set of channels: the places that it lies in, each as often as it has positions there.
    members: dict[int, list[int]] = {}
    positions: dict[tuple[int, int], list[int]] = {}
    for number, place in enumerate(places):
        for position, root in enumerate(place.sets.tolist()):
            if root >= 0 and root not in refused:
                members.setdefault(root, []).append(number)
                positions.setdefault((root, number), []).append(position)
    alike: dict[tuple[int, ...], list[int]] = {}
    for root, numbers in members.items():
        alike.setdefault(tuple(numbers), []).append(root)
    coupling = Coupling([])
    taken: set[str] = set()
    for found, roots in alike.items():
        where = list(dict.fromkeys(found))
        axes = []
        for number in where:
            index = torch.tensor([positions[root, number] for root in roots])
            place = places[number]
            axes += [Axis(f"{place.layer}.{local}".lstrip("."), dim, place.writes, index) for local, dim in place.axes]
        names = [f"{places[n].layer}.weight".lstrip(".") for n in where if places[n].begins]
        name = next((name for name in names if name not in taken), "")
        reason = _why_not(places, where, len(roots), found)
        if not name:
            continue
        taken.add(name)
        if reason:
            coupling.left_out[name] = reason
        else:
            coupling.groups.append(Group(name, len(roots), tuple(axes)))
    _add_refusals(coupling, places, refused, trace)
    return coupling


def _why_not(places: list[_Place], where: list[int], units: int, found: tuple[int, ...]) -> str:
    """Return why sets of channels in the same places are no group; empty if they are one."""
    if not any(not places[number].writes for number in where):
        return "no layer reads them"
    if units == 1 and any(found.count(n) > 1 for n in where if places[n].begins):
        return "they can only be removed all at once, because equal parts of them are mixed with one another"
    return ""


def _add_refusals(coupling: Coupling, places: list[_Place], refused: dict[int, str], trace: Trace) -> None:
    """Note for each layer why some of its channels cannot be removed."""
    for place in places:
        name = f"{place.layer}.weight".lstrip(".")
        if place.begins and place.layer in trace.ran and name not in coupling.left_out:
            reasons = dict.fromkeys(refused[root] for root in torch.unique(place.sets).tolist() if root in refused)
            if reasons:
                coupling.left_out[name] = "; ".join(reasons)


def _places(model: nn.Module, trace: Trace) -> Iterator[_Place]:
    """Yield the tensors of all layers in which channels lie: first those in which they begin."""
    find, modules = trace.units.find, list(model.named_modules())
    for name, module in modules:
        if mixes_channels(module) and name in trace.ran:
            axes = [("weight", row_dim(module)), *([] if module.bias is None else [("bias", 0)])]
            yield _Place(name, find(trace.writes[name]), tuple(axes), True, begins=True)
    for name, module in modules:
        if mixes_channels(module) and name in trace.reads:
            yield _Place(name, find(trace.reads[name]), (("weight", column_dim(module)),), False)
        elif isinstance(module, CONVOLUTIONS) and module.groups > 1 and name in trace.reads:
            rows, columns = find(trace.writes[name]), find(trace.reads[name])
            yield _Place(name, columns if module.transposed else rows, (("weight", 0),), True)
            if module.bias is not None:
                yield _Place(name, rows, (("bias", 0),), True)
        elif name in trace.carries:
            held = [local for local in CHANNELWISE_TENSORS if getattr(module, local, None) is not None]
            yield _Place(name, find(trace.carries[name]), tuple((local, 0) for local in held), True)
