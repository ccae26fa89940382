"""Masks of coupled units: one decision for each unit, written into every tensor of its group."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_dynprune.engine.coupled.coupled_update import update_coupled_masks
from lightning_dynprune.engine.updates import Changes, MaskChanged, MinKept, UpdateRequest
from lightning_dynprune.masks import MaskSet, reset_slots
from lightning_dynprune.patterns import CoupledPattern
from lightning_dynprune.targets import TargetView

if TYPE_CHECKING:
    from lightning_dynprune.coupling import Axis, Group

_STATISTICS = "running_var"  # of a norm: it divides zeros


@dataclass
class _Member:
    """One tensor of a group that is not a target: a bias, or the scale, shift or running mean of a norm."""

    axis: Axis
    module: nn.Module
    local: str
    group: int
    pruned: Tensor  # bool along the axis
    any_pruned: bool = False

    @property
    def tensor(self) -> Tensor:
        """The tensor, looked up in its module."""
        found: Tensor = getattr(self.module, self.local)
        return found

    def along(self, positions: Tensor) -> Tensor:
        """Return positions along the axis as a mask that broadcasts to the tensor, on its device."""
        shape = [1] * self.tensor.dim()
        shape[self.axis.dim] = -1
        return positions.to(self.tensor.device).view(shape)


@dataclass(frozen=True)
class _Savepoint:
    """The units that were kept, and the values of the members."""

    alive: list[Tensor]
    members: list[tuple[_Member, Tensor, bool, Tensor]]
    values: dict[str, Tensor]


class CoupledMasks:
    """Which units of each group are kept, and the masks of all tensors of the groups that follow from it.

    Args:
        model: owns all the tensors.
        groups: groups of units; those that are not made by targets alone are left out.
        masks: of the targets; they determine which units are kept.
        pattern: the unit: how its scores are pooled and its counts rounded.
        optimizers: train the model.

    Raises:
        ValueError: no group is made by targets alone.

    Attributes:
        groups: the groups that are pruned.
        alive: for each of them a bool tensor, one entry a unit: whether it is kept.
        members: the tensors of the groups that are not targets.
        values: values of members when their units were pruned, by name.
    """

    def __init__(
        self,
        model: nn.Module,
        groups: Sequence[Group],
        masks: MaskSet,
        pattern: CoupledPattern,
        optimizers: Sequence[Optimizer],
    ) -> None:
        self.masks, self.pattern, self._optimizers = masks, pattern, optimizers
        self._positions = {target.name: i for i, target in enumerate(masks.targets)}
        self._holders = _holders(model)
        self.groups = [group for group in groups if self._is_made_by_targets(group, self._holders)]
        if not self.groups:
            raise ValueError(
                f"pattern {pattern.label}: no unit of the model is made by targets alone; targets are "
                f"{', '.join(self._positions)}; its groups are {', '.join(group.name for group in groups) or 'none'}"
            )
        self._gather(self.groups)
        self.follow_masks()

    def _gather(self, groups: Sequence[Group]) -> None:
        """Sort the tensors of the groups into targets and members; all units are kept."""
        self.groups = list(groups)
        self.alive = [torch.ones(group.units, dtype=torch.bool) for group in groups]
        # For each target: the number of each group in it, and the axis along which its units lie.
        self._axes: list[list[tuple[int, Axis]]] = [[] for _ in self.masks.targets]
        self.members: list[_Member] = []
        for number, group in enumerate(self.groups):
            for axis in group.axes:
                if axis.name in self._positions:
                    self._axes[self._positions[axis.name]].append((number, axis))
                elif not axis.name.endswith(_STATISTICS):
                    module, local = self._holders[axis.name]
                    size = getattr(module, local).shape[axis.dim]
                    self.members.append(_Member(axis, module, local, number, torch.zeros(size, dtype=torch.bool)))
        # Columns of tensors that are not targets return at zero instead.
        self.values = {m.axis.name: torch.zeros_like(m.tensor.detach()) for m in self.members if m.axis.writes}

    @property
    def max_sparsity(self) -> float:
        """The sparsity at which every group keeps no more units than it has to."""
        kept = self.kept([self.least(number) for number in range(len(self.groups))])
        return 1 - kept / self.masks.total

    @property
    def largest(self) -> int:
        """Connections of the largest unit in all targets, in its rows and columns."""
        counts = [0] * len(self.groups)
        for target, axes in zip(self.masks.targets, self._axes, strict=True):
            for number, axis in axes:
                counts[number] += target.numel // target.parameter.shape[axis.dim] * axis.index.shape[1]
        return max(counts)

    @property
    def counts(self) -> list[int]:
        """Units kept in each group."""
        return [int(lives.sum()) for lives in self.alive]

    def min_kept(self) -> list[MinKept]:
        """Return how many units every group has to keep."""
        return [
            MinKept(group.name, self.least(number), self.least(number), kept, f"{group.units} units")
            for number, (group, kept) in enumerate(zip(self.groups, self.counts, strict=True))
        ]

    def check_ready(self) -> None:
        """Do nothing: the groups are known."""

    def check_reachable(self, sparsity: float) -> None:
        """Raise where pruning the groups cannot reach a sparsity.

        Raises:
            ValueError: naming the settings and the largest sparsity that can be reached.
        """
        if self.masks.sparsity == 0.0 and sparsity > self.max_sparsity:
            raise ValueError(
                f"sparsity={sparsity!r} is not within reach of pattern {self.pattern.label}: with "
                f"min_kept, round_to={self.pattern.multiple} and the connections that belong to no unit "
                f"{self.max_sparsity:.6g} at most is pruned here"
            )

    def update_masks(
        self, views: Sequence[TargetView], request: UpdateRequest, mask_changed: MaskChanged, remember: bool
    ) -> Changes:
        """Write new masks, see :func:`~lightning_dynprune.engine.coupled.coupled_update.update_coupled_masks`."""
        return update_coupled_masks(self, views, request, mask_changed)

    def made_by(self, position: int) -> list[tuple[int, Axis]]:
        """Return the groups whose units the target at a position makes: the number of each, and the axis."""
        return [(number, axis) for number, axis in self._axes[position] if axis.writes]

    def makers(self, group: Group) -> list[int]:
        """Return the positions of the targets that make the units of a group."""
        return [self._positions[a.name] for a in group.axes if a.writes and a.name in self._positions]

    def rounded(self, number: int, units: int) -> int:
        """Return the number of units of a group to keep instead of ``units``: the nearest multiple of ``round_to``."""
        alive, step = int(self.alive[number].sum()), self.pattern.multiple
        return min(max(int(units / step + 0.5) * step, self.least(number)), alive)

    def kept(self, units: Sequence[int]) -> int:
        """Return how many connections of all targets are kept if each group keeps this number of units."""
        total = 0
        for target, axes in zip(self.masks.targets, self._axes, strict=True):
            left = list(target.parameter.shape)
            for number, axis in axes:
                left[axis.dim] -= (self.groups[number].units - units[number]) * axis.index.shape[1]
            total += math.prod(left)
        return total

    def mask(self, position: int) -> Tensor:
        """Return the mask of a target that follows from the units that are kept."""
        parameter = self.masks.targets[position].parameter
        mask = torch.ones_like(parameter, dtype=torch.bool, requires_grad=False)
        for number, axis in self._axes[position]:
            along = torch.ones(parameter.shape[axis.dim], dtype=torch.bool)
            along[axis.index[~self.alive[number]].reshape(-1)] = False
            shape = [1] * mask.dim()
            shape[axis.dim] = -1
            mask &= along.to(mask.device).view(shape)
        return mask

    @torch.no_grad()
    def keep(self, alive: Sequence[Tensor]) -> None:
        """Keep these units, and set the members of the others to zero.

        The values of a member are remembered when its unit is pruned, and put back when the unit returns.

        Args:
            alive: for each group a bool tensor, one entry a unit.
        """
        self.alive = [lives.clone() for lives in alive]
        for member in self.members:
            tensor, axis, before = member.tensor, member.axis, member.pruned.cpu()
            member.pruned = torch.zeros_like(before)
            member.pruned[axis.index[~self.alive[member.group]].reshape(-1)] = True
            member.any_pruned = bool(member.pruned.any())
            if (values := self.values.get(axis.name)) is not None:
                values.copy_(torch.where(member.along(member.pruned & ~before), tensor, values))
                tensor.copy_(torch.where(member.along(before & ~member.pruned), values, tensor))
        self.apply()

    def clear_slots(self) -> None:
        """Clear the optimizers' slots of the members of pruned units."""
        for member in self.members:
            tensor = member.tensor
            if isinstance(tensor, nn.Parameter) and member.any_pruned:
                reset_slots(self._optimizers, tensor, member.along(~member.pruned).expand(tensor.shape).contiguous())

    def savepoint(self) -> _Savepoint:
        """Return what an update changes outside the targets, for :meth:`restore`."""
        members = [(m, m.pruned.clone(), m.any_pruned, m.tensor.detach().clone()) for m in self.members]
        return _Savepoint(self.alive, members, {name: value.clone() for name, value in self.values.items()})

    @torch.no_grad()
    def restore(self, savepoint: _Savepoint) -> None:
        """Go back to a :meth:`savepoint`."""
        self.alive = savepoint.alive
        for member, pruned, any_pruned, values in savepoint.members:
            member.pruned, member.any_pruned = pruned, any_pruned
            member.tensor.copy_(values)
        for name, value in savepoint.values.items():
            self.values[name].copy_(value)

    def follow_masks(self) -> None:
        """Read from the masks of the targets which units are kept, after they were loaded or restored."""
        alive = []
        for group in self.groups:
            lives = torch.zeros(group.units, dtype=torch.bool)
            for axis in group.axes:
                if axis.writes and axis.name in self._positions:
                    mask = self.masks.tensors[self._positions[axis.name]]
                    rows = mask.movedim(axis.dim, 0).flatten(1).any(1).cpu()
                    lives |= rows[axis.index].any(1)
            alive.append(lives)
        self.keep(alive)

    @torch.no_grad()
    def apply(self) -> None:
        """Set the members of pruned units to +0.0, in place; no host sync."""
        for member in self.members:
            if member.any_pruned:
                member.pruned = member.pruned.to(member.tensor.device)
                member.tensor.masked_fill_(member.along(member.pruned), 0.0)

    @torch.no_grad()
    def mask_gradients(self) -> None:
        """Set the gradients of the members of pruned units to zero."""
        for member in self.members:
            if member.any_pruned and (grad := member.tensor.grad) is not None:
                grad.masked_fill_(member.along(member.pruned), 0.0)

    def narrowed(self, stayed: Mapping[str, Mapping[int, Tensor]]) -> list[Group]:
        """Return the groups of a model whose pruned units are removed.

        Args:
            stayed: tensor name -> dimension -> the positions that stayed, int64.
        """
        narrowed = []
        for group, lives in zip(self.groups, self.alive, strict=True):
            axes = tuple(_narrowed(axis, lives, stayed.get(axis.name, {}).get(axis.dim)) for axis in group.axes)
            narrowed.append(dataclasses.replace(group, units=int(lives.sum()), axes=axes))
        return narrowed

    def regroup(self, groups: Sequence[Group]) -> None:
        """Take over the groups from :meth:`narrowed`; all their units are kept."""
        self._gather(groups)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the remembered values of members; the masks of the targets tell which units are kept."""
        return dict(self.values)

    def check_state_dict(self, state: Mapping[str, Tensor] | None) -> None:
        """Raise where a :meth:`state_dict` belongs to other groups.

        Raises:
            ValueError: the values are of other tensors or shapes.
        """
        if state is None:
            return
        expected = {name: tuple(value.shape) for name, value in self.values.items()}
        found = {name: tuple(value.shape) for name, value in state.items()}
        if found != expected:
            wrong = sorted(set(found.items()) ^ set(expected.items()))[0][0]
            raise ValueError(
                f"checkpoint: its groups of pattern {self.pattern.label} are not this model's: they differ at {wrong}; "
                "resume with the model and the example input of that run"
            )

    def load_state_dict(self, state: Mapping[str, Tensor] | None) -> None:
        """Resume from a :meth:`state_dict`, once the masks of the targets are loaded.

        Raises:
            ValueError: the values are of other tensors or shapes.
        """
        if state is None:
            return
        self.check_state_dict(state)
        self.follow_masks()
        for name, value in state.items():
            self.values[name].copy_(value)

    def least(self, number: int) -> int:
        """Return how many units a group has to keep."""
        group = self.groups[number]
        wanted = max(self.masks.targets[position].min_kept for position in self.makers(group))
        return min(-(-wanted // self.pattern.multiple) * self.pattern.multiple, int(self.alive[number].sum()))

    def _is_made_by_targets(self, group: Group, holders: Mapping[str, tuple[nn.Module, str]]) -> bool:
        """Return whether all weights that make the units of a group are targets."""
        # The biases of experts have two dimensions, those of keys and values three.
        written = [a for a in group.axes if a.writes and "bias" not in a.name.rpartition(".")[2]]
        made = [axis for axis in written if getattr(*holders[axis.name]).dim() > 1]
        return bool(made) and all(axis.name in self._positions for axis in made)


def _holders(model: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    """Return the module that holds each parameter and buffer, and the name it has there."""
    found: dict[str, tuple[nn.Module, str]] = {}
    for prefix, module in model.named_modules():
        for local, _ in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            found[f"{prefix}.{local}" if prefix else local] = (module, local)
    return found


def _narrowed(axis: Axis, lives: Tensor, stayed: Tensor | None) -> Axis:
    """Return the axis of the units that are kept, in a tensor of which only some positions stayed."""
    index = axis.index[lives]
    return dataclasses.replace(axis, index=index if stayed is None else torch.searchsorted(stayed, index))
