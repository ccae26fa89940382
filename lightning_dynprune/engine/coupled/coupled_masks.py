"""Masks of units that reach over several targets: one decision a unit, written into every tensor of its group."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_dynprune.masks import MaskSet, reset_slots
from lightning_dynprune.patterns import CoupledPattern
from lightning_dynprune.selection import Cut, Scores, at_least_float32
from lightning_dynprune.targets import TargetView

if TYPE_CHECKING:
    from lightning_dynprune.coupling import Axis, Group

Score = Callable[[TargetView], Tensor]
_STATISTICS = "running_var"  # of a norm: divides what is zero already


@dataclass
class _Member:
    """One tensor of a group that is no target: a bias, a norm's scale, shift or running mean."""

    axis: Axis
    module: nn.Module
    local: str
    group: int
    pruned: Tensor  # bool along the axis
    any_pruned: bool = False

    @property
    def tensor(self) -> Tensor:
        """The tensor as it is now."""
        found: Tensor = getattr(self.module, self.local)
        return found

    def along(self, positions: Tensor) -> Tensor:
        """Return positions along the axis as a mask that broadcasts to the tensor, on its device."""
        shape = [1] * self.tensor.dim()
        shape[self.axis.dim] = -1
        return positions.to(self.tensor.device).view(shape)


class GroupMasks:
    """Which units of every group live, and what follows for targets and for the tensors beside them.

    Args:
        model: owns all the tensors.
        groups: of units; those that no target makes are left alone.
        masks: of the targets; they say which units live.
        pattern: how units are scored and rounded.

    Raises:
        ValueError: no target makes any unit.

    Attributes:
        groups: those that are pruned.
        alive: for each of them, bool, one a unit.
    """

    def __init__(self, model: nn.Module, groups: Sequence[Group], masks: MaskSet, pattern: CoupledPattern) -> None:
        self.masks, self.pattern = masks, pattern
        self._positions = {target.name: i for i, target in enumerate(masks.targets)}
        owners = _owners(model)
        self.groups = [group for group in groups if self._is_ours(group, owners)]
        if not self.groups:
            raise ValueError(
                f"pattern {pattern.label}: no unit of the model is made by targets alone; targets are "
                f"{', '.join(self._positions)}; its groups are {', '.join(group.name for group in groups) or 'none'}"
            )
        self._owners = owners
        self._gather(self.groups)
        self.follow()

    def _gather(self, groups: Sequence[Group]) -> None:
        """Sort the groups' tensors into targets and members; all units live."""
        self.groups = list(groups)
        self.alive = [torch.ones(group.units, dtype=torch.bool) for group in groups]
        # Of each target: the axes along which groups lie in it.
        self._axes: list[list[tuple[int, Axis]]] = [[] for _ in self.masks.targets]
        self.members: list[_Member] = []
        for number, group in enumerate(self.groups):
            for axis in group.axes:
                if axis.name in self._positions:
                    self._axes[self._positions[axis.name]].append((number, axis))
                elif not axis.name.endswith(_STATISTICS):
                    module, local = self._owners[axis.name]
                    size = getattr(module, local).shape[axis.dim]
                    self.members.append(_Member(axis, module, local, number, torch.zeros(size, dtype=torch.bool)))
        # What members held when their units went; columns of what is no target come back at zero instead.
        self.values = {m.axis.name: torch.zeros_like(m.tensor.detach()) for m in self.members if m.axis.writes}

    @property
    def most(self) -> float:
        """The sparsity that is reached where every group keeps as few units as it may."""
        kept = self.kept([self._floor(number) for number in range(len(self.groups))])
        return 1 - kept / self.masks.total

    @property
    def largest(self) -> int:
        """Connections of the targets that the largest unit has, rows and columns."""
        counts = [0] * len(self.groups)
        for target, axes in zip(self.masks.targets, self._axes, strict=True):
            for number, axis in axes:
                counts[number] += target.numel // target.parameter.shape[axis.dim] * axis.index.shape[1]
        return max(counts)

    @property
    def counts(self) -> list[int]:
        """How many units of each group live."""
        return [int(lives.sum()) for lives in self.alive]

    def floors(self) -> list[tuple[str, int, int, int]]:
        """Return of each group its name, its units, how many of them must stay, and how many live."""
        return [
            (group.name, group.units, self._floor(number), kept)
            for number, (group, kept) in enumerate(zip(self.groups, self.counts, strict=True))
        ]

    def scores(self, views: Sequence[TargetView], score: Score) -> list[Scores]:
        """Return the scores of every group's units: the mean over the living connections that make each.

        Args:
            views: what the strategy sees, one a target.
            score: makes one score a connection.
        """
        sums = [torch.zeros(group.units, dtype=torch.float64) for group in self.groups]
        counts = [torch.zeros(group.units, dtype=torch.float64) for group in self.groups]
        for position, view in enumerate(views):
            written = [(number, axis) for number, axis in self._axes[position] if axis.writes]
            if not written:
                continue
            # What a strategy remembers of pruned connections is no part of the unit any more.
            scores = at_least_float32(score(view)).masked_fill(~view.mask, 0.0)
            for number, axis in written:
                for total, values in ((sums, scores), (counts, view.mask)):
                    rows = values.movedim(axis.dim, 0).flatten(1).sum(1, dtype=torch.float64).cpu()
                    total[number] += rows[axis.index].sum(1)
        found = []
        for number, group in enumerate(self.groups):
            mean, lives = sums[number] / counts[number].clamp(min=1), self.alive[number]
            scale = mean[lives].abs().mean()
            pooled = (mean / scale if self.pattern.relative and scale > 0 else mean).float()
            made_by = views[self._made_by(group)[0]]
            found.append(
                Scores(
                    group.name,
                    group.units,
                    int(lives.sum()),
                    pieces=_whole(pooled, lives),
                    sample=_sampled(pooled, lives),
                    min_kept=self._floor(number),
                    shape=(group.units,),
                    seed=made_by.seed,
                    step=made_by.step,
                )
            )
        return found

    def rounded(self, number: int, units: int) -> int:
        """Return how many units of a group are kept instead of ``units``: the nearest multiple that there is."""
        alive, step = int(self.alive[number].sum()), self.pattern.round_to
        return min(max(int(units / step + 0.5) * step, self._floor(number)), alive)

    def kept(self, units: Sequence[int]) -> int:
        """Return how many connections of all targets live where each group keeps so many units."""
        total = 0
        for target, axes in zip(self.masks.targets, self._axes, strict=True):
            left = list(target.parameter.shape)
            for number, axis in axes:
                left[axis.dim] -= (self.groups[number].units - units[number]) * axis.index.shape[1]
            total += math.prod(left)
        return total

    def cut_of(self, position: int, cuts: Sequence[Cut]) -> float:
        """Return where a target's own units were cut, given the groups' cuts; -inf where it makes no unit."""
        return next((cuts[number].value for number, axis in self._axes[position] if axis.writes), -math.inf)

    def mask(self, position: int) -> Tensor:
        """Return the mask of a target that follows from the units that live."""
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
    def take(self, alive: Sequence[Tensor], optimizers: Sequence[Optimizer]) -> None:
        """Let these units live, and set what the others have beside the targets to zero; its slots are cleared.

        What a member held when its unit went is remembered, and put back where the unit returns.

        Args:
            alive: bool, one a unit, for each group.
            optimizers: what trains the members.
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
            if isinstance(tensor, nn.Parameter) and member.any_pruned:
                reset_slots(optimizers, tensor, member.along(~member.pruned).expand(tensor.shape).contiguous())
        self.apply()

    def follow(self) -> None:
        """Read from the targets' masks which units live, as after a checkpoint was loaded or masks were restored."""
        alive = []
        for group in self.groups:
            lives = torch.zeros(group.units, dtype=torch.bool)
            for axis in group.axes:
                if axis.writes and axis.name in self._positions:
                    mask = self.masks.tensors[self._positions[axis.name]]
                    rows = mask.movedim(axis.dim, 0).flatten(1).any(1).cpu()
                    lives |= rows[axis.index].any(1)
            alive.append(lives)
        self.take(alive, ())

    @torch.no_grad()
    def apply(self) -> None:
        """Set what pruned units have beside the targets to +0.0, in place; no host sync."""
        for member in self.members:
            if member.any_pruned:
                member.pruned = member.pruned.to(member.tensor.device)
                member.tensor.masked_fill_(member.along(member.pruned), 0.0)

    @torch.no_grad()
    def mask_gradients(self) -> None:
        """Set the gradients of what pruned units have beside the targets to zero."""
        for member in self.members:
            if member.any_pruned and (grad := member.tensor.grad) is not None:
                grad.masked_fill_(member.along(member.pruned), 0.0)

    def narrow(self, stayed: Mapping[str, Mapping[int, Tensor]]) -> None:
        """Follow a model whose pruned units were taken out: those that live are all there is.

        Args:
            stayed: tensor name -> dimension -> the positions that stayed, int64.
        """
        narrowed = []
        for group, lives in zip(self.groups, self.alive, strict=True):
            axes = tuple(_narrowed(axis, lives, stayed.get(axis.name, {}).get(axis.dim)) for axis in group.axes)
            narrowed.append(dataclasses.replace(group, units=int(lives.sum()), axes=axes))
        self._gather(narrowed)

    def state_dict(self) -> dict[str, Tensor]:
        """Return what members held when their units went; which units live, the targets' masks tell."""
        return dict(self.values)

    def refuse_others(self, state: Mapping[str, Tensor]) -> None:
        """Raise where a :meth:`state_dict` is of other groups.

        Raises:
            ValueError: the values are of other tensors or shapes.
        """
        expected = {name: tuple(value.shape) for name, value in self.values.items()}
        found = {name: tuple(value.shape) for name, value in state.items()}
        if found != expected:
            wrong = sorted(set(found.items()) ^ set(expected.items()))[0][0]
            raise ValueError(
                f"checkpoint: its groups of pattern {self.pattern.label} are not this model's: they differ at {wrong}; "
                "resume with the model and the example input of that run"
            )

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a :meth:`state_dict`, once the targets' masks are loaded.

        Raises:
            ValueError: the values are of other tensors or shapes.
        """
        self.refuse_others(state)
        self.follow()
        for name, value in state.items():
            self.values[name].copy_(value)

    def _floor(self, number: int) -> int:
        """Return how many units a group keeps at least."""
        group = self.groups[number]
        wanted = max(self.masks.targets[position].min_kept for position in self._made_by(group))
        return min(-(-wanted // self.pattern.round_to) * self.pattern.round_to, int(self.alive[number].sum()))

    def _made_by(self, group: Group) -> list[int]:
        return [self._positions[a.name] for a in group.axes if a.writes and a.name in self._positions]

    def _is_ours(self, group: Group, owners: Mapping[str, tuple[nn.Module, str]]) -> bool:
        """Return whether all weights that make a group's units are targets."""
        made = [axis for axis in group.axes if axis.writes and getattr(*owners[axis.name]).dim() > 1]
        return bool(made) and all(axis.name in self._positions for axis in made)


def _owners(model: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    """Return the module that holds each parameter and buffer, and the name it has there."""
    found: dict[str, tuple[nn.Module, str]] = {}
    for prefix, module in model.named_modules():
        for local, _ in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            found[f"{prefix}.{local}" if prefix else local] = (module, local)
    return found


def _narrowed(axis: Axis, lives: Tensor, stayed: Tensor | None) -> Axis:
    """Return the axis of the units that live, in a tensor of which only some positions stayed."""
    index = axis.index[lives]
    return dataclasses.replace(axis, index=index if stayed is None else torch.searchsorted(stayed, index))


def _whole(scores: Tensor, lives: Tensor) -> Callable[[], Iterator[tuple[Tensor, Tensor]]]:
    return lambda: iter([(scores, lives)])


def _sampled(scores: Tensor, lives: Tensor) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    return lambda index: (scores[index], lives[index])
