"""Groups of channels, made from the channels that a forward pass was seen to write, carry and read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_dynprune.coupling.group import Axis, Coupling, Group
from lightning_dynprune.coupling.layers import CHANNELWISE_TENSORS, column_dim, is_grouped, mixes_channels, row_dim
from lightning_dynprune.coupling.tracing.trace import Trace


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

    @property
    def weight(self) -> str:
        """Name of the layer's weight."""
        return f"{self.layer}.weight".lstrip(".")


@dataclass
class _Found:
    """A group that is being put together.

    Attributes:
        units: number of its sets of channels.
        axes: so far.
        begins: names of the weights that its channels begin in.
        is_read: whether a layer reads them.
        is_tied: whether a weight holds several channels of a unit.
    """

    units: int
    axes: list[Axis]
    begins: list[str]
    is_read: bool = False
    is_tied: bool = False

    def why_not(self) -> str:
        """Return why its channels cannot be removed; empty if they can."""
        if not self.is_read:
            return "no layer reads them"
        if self.units == 1 and self.is_tied:
            return "they can only be removed all at once, because equal parts of them are mixed with one another"
        return ""


def traced_groups(model: nn.Module, trace: Trace) -> Coupling:
    """Return the groups of channels of a model; channels that cannot be removed are left out with the reason.

    Sets of channels that lie in the same tensors, in each as often, are the units of one group.

    Args:
        model: the network.
        trace: of the model.
    """
    retained = trace.units.retained()
    places = list(_places(model, trace))
    kinds = _kinds(places, trace.units.count, torch.tensor(list(retained), dtype=torch.int64))
    found: dict[int, _Found] = {}
    positions: dict[tuple[int, ...], list[tuple[int, Tensor]]] = {}
    for place in places:
        key = tuple(place.sets.tolist())
        if key not in positions:
            positions[key] = list(_positions(place, kinds))
        for kind, index in positions[key]:
            group = found.setdefault(kind, _Found(len(index), [], []))
            for local, dim in place.axes:
                group.axes.append(Axis(f"{place.layer}.{local}".lstrip("."), dim, place.writes, index))
            group.is_read |= not place.writes
            if place.begins:
                group.begins.append(place.weight)
                group.is_tied |= index.shape[1] > 1
    coupling = Coupling([])
    taken: set[str] = set()
    for group in found.values():
        # A weight may make the units of several groups, but gives its name to one.
        name = next((name for name in group.begins if name not in taken), "")
        taken.add(name)
        if reason := group.why_not():
            coupling.left_out.setdefault(name, reason)
        elif name:
            coupling.groups.append(Group(name, group.units, tuple(group.axes)))
    coupling.left_out.pop("", None)
    _add_retained(coupling, places, retained, trace)
    return coupling


def _kinds(places: list[_Place], count: int, retained: Tensor) -> Tensor:
    """Return one number for each set of channels, equal where sets lie in the same places; -1 if retained."""
    kinds, following = torch.zeros(count, dtype=torch.int64), 1
    # A norm holds the same sets as the layer before it, and tells no new differences.
    for place in {tuple(place.sets.tolist()): place for place in places}.values():
        times = torch.bincount(place.sets[place.sets >= 0], minlength=count)
        present = times.nonzero().flatten()
        if len(present):
            key = kinds[present] * (int(times.max()) + 1) + times[present]
            _, kinds[present] = torch.unique(key, return_inverse=True)
            kinds[present] += following
            following = int(kinds.max()) + 1
    kinds[retained] = -1
    return kinds


def _positions(place: _Place, kinds: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield for each group with channels in a place its kind, and the positions of each unit: ``(units, width)``."""
    own = torch.where(place.sets >= 0, kinds[place.sets.clamp(min=0)], -1) if len(kinds) else place.sets
    for kind in torch.unique(own[own >= 0]).tolist():
        positions = (own == kind).nonzero().flatten()
        sets = place.sets[positions]
        order = sets.argsort(stable=True)
        yield kind, positions[order].view(len(torch.unique(sets)), -1)


def _add_retained(coupling: Coupling, places: list[_Place], retained: dict[int, str], trace: Trace) -> None:
    """Note for each layer why some of its channels cannot be removed."""
    for place in places:
        if place.begins and place.layer in trace.ran and place.weight not in coupling.left_out:
            reasons = dict.fromkeys(retained[root] for root in torch.unique(place.sets).tolist() if root in retained)
            if reasons:
                coupling.left_out[place.weight] = "; ".join(reasons)


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
        elif is_grouped(module) and name in trace.reads:
            rows, columns = find(trace.writes[name]), find(trace.reads[name])
            yield _Place(name, columns if module.transposed else rows, (("weight", 0),), True)
            if module.bias is not None:
                yield _Place(name, rows, (("bias", 0),), True)
        elif name in trace.carries:
            held = [local for local in CHANNELWISE_TENSORS if getattr(module, local, None) is not None]
            yield _Place(name, find(trace.carries[name]), tuple((local, 0) for local in held), True)
