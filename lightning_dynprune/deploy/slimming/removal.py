"""Remove channels and heads that do not contribute to a model's outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_dynprune.base import check_count, check_flag, check_real, nested_tensors
from lightning_dynprune.coupling import (
    Coupling,
    CouplingError,
    Group,
    Narrowing,
    SlimError,
    attention_heads,
    coupled_groups,
    explain_heads,
    failing_groups,
    isolated,
    output_difference,
    run_example,
)
from lightning_dynprune.deploy.slimming.constant_inputs import ConstantInputs
from lightning_dynprune.deploy.slimming.dead_units import (
    constant_units,
    dead_heads,
    dead_units,
    fold_constants,
)
from lightning_dynprune.deploy.slimming.slimmed import Slimmed
from lightning_dynprune.masks import KeptEntries, narrow_slots


@torch.no_grad()
def slim(
    model: nn.Module,
    example_input: Any,
    optimizer: Optimizer | Sequence[Optimizer] | None = None,
    *,
    tolerance: float = 1e-5,
    round_to: int = 1,
    fold: bool = True,
    heads: Mapping[str, int] | None = None,
    exclude: str | Sequence[str] = (),
) -> Slimmed:
    """Remove, in place, every channel and attention head that cannot change the outputs in eval mode.

    A channel is removed where all layers that read it have zeros for it, or where it is zero or constant whatever the
    model's inputs and every reader's bias can absorb it. Removal can expose more such channels, so it repeats until
    none is left. Each group keeps at least one unit. A head is removed where its queries, keys and values are zero, or
    the columns that read it. Where query heads share keys and values, a group goes as a whole, or one query head of
    every group. Heads whose module does not compute the same with fewer of them stay, and the report says so. It does
    not matter how the zeros arose; no pruner is needed.

    Parameters and buffers, and their ``grad``, stay the same objects with fewer entries, so an optimizer, an average of
    weights or a pruner that refers to them remains valid. Names do not change.

    Args:
        model: the network.
        example_input: a tensor, a tuple or list of arguments, or a dict of keyword arguments; on the model's device.
        optimizer: one or more optimizers, whose slots are narrowed alike; see
            :func:`lightning_dynprune.masks.narrow_slots`.
        tolerance: largest accepted change of the outputs on the example, relative to their largest value; beyond it the
            model is restored.
        round_to: keep a multiple of this number of units in each group, as far as there are as many; 8 suits most
            hardware.
        fold: let biases absorb channels that are constant but not zero. In train mode a batch norm maps such a channel
            to another constant than in eval mode, so set this to False if training continues.
        heads: as for :func:`~lightning_dynprune.coupling.attention_heads`. With a mapping, ambiguous modules raise an
            error; with None, they are left out.
        exclude: globs on names of parameters that keep their shapes.

    Returns:
        What was removed, and the reasons for what was not.

    Raises:
        CouplingError: the channels cannot be traced through the model.
        SlimError: the outputs changed by more than the tolerance; the model is unchanged.
        ValueError: a setting is out of range, or an optimizer has state that cannot be narrowed.

    Example:
        >>> net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> net[2].weight.data[:, 1:3] = 0
        >>> slim(net, torch.randn(1, 3)).widths
        {'0.weight': (4, 2)}
        >>> net[0].weight.shape, net[2].weight.shape
        (torch.Size([2, 3]), torch.Size([2, 2]))
    """
    tolerance = check_real("slim: tolerance", tolerance, 0.0)
    round_to = check_count("slim: round_to", round_to)
    fold = check_flag("slim: fold", fold)
    optimizers = [optimizer] if isinstance(optimizer, Optimizer) else list(optimizer or ())
    excluded = [exclude] if isinstance(exclude, str) else list(exclude)
    coupling = coupled_groups(model, example_input, exclude=excluded, verify=False)
    attention = _attention(model, example_input, heads, excluded, coupling)
    change = Narrowing(model)
    parameters = {name: tensor for name, tensor in change.tensors.items() if isinstance(tensor, nn.Parameter)}
    shapes, before = {name: tensor.shape for name, tensor in change.tensors.items()}, _size(change)
    try:
        removal = _remove(change, example_input, coupling, attention, round_to, fold, tolerance)
        moves = {parameters[n]: KeptEntries(shapes[n], dims) for n, dims in removal.stayed.items() if n in parameters}
        narrow_slots(optimizers, moves)
    except BaseException:
        change.undo()
        raise
    after = _size(change)
    return Slimmed(
        {group.name: (len(keep), int(keep.sum())) for group, keep in zip(removal.groups, removal.kept, strict=True)},
        (before[0], after[0]),
        (before[1], after[1]),
        removal.difference,
        removal.folded,
        removal.constant,
        coupling.left_out,
        {name: type(module).__name__ for name, module in change.replaced()},
    )


@dataclass(frozen=True, eq=False)
class _Removal:
    """Units that were removed from a model.

    Attributes:
        groups: of units.
        kept: for each of them a bool tensor, one entry a unit.
        stayed: tensor name -> dimension -> the positions that stayed.
        difference: how far the outputs moved.
        folded: layer -> number of constant units that its bias absorbed.
        constant: group name -> which layer keeps constant units.
    """

    groups: list[Group]
    kept: list[Tensor]
    stayed: dict[str, dict[int, Tensor]]
    difference: float
    folded: dict[str, int]
    constant: dict[str, str]


def _remove(
    change: Narrowing,
    example_input: Any,
    coupling: Coupling,
    attention: Sequence[Group],
    round_to: int,
    fold: bool,
    tolerance: float,
) -> _Removal:
    """Remove the units that do not contribute; groups whose units cannot be removed are left out.

    Raises:
        SlimError: the outputs change by more than the tolerance, and no group of channels is the cause; the model is
            unchanged.
    """
    while True:
        channels = [group for group in coupling.groups if not group.modules]
        whole = [*(group for group in coupling.groups if group.modules), *attention]  # experts and heads
        groups = [*channels, *whole]
        dead, folded, constant = _zero_dead_units(change, example_input, channels, whole, fold)
        kept = [_round_up(~gone, round_to) for gone in dead]
        stayed = change.narrow(groups, kept)
        difference, problem = _output_change(change, example_input, coupling.outputs, groups, kept)
        if difference <= tolerance:
            return _Removal(groups, kept, stayed, difference, folded, constant)
        change.undo()
        gone = [group for group, units in zip(groups, dead, strict=True) if units.any()]
        with isolated(change.model):
            failed = failing_groups(change.model, example_input, gone)
        if not failed:
            problem = problem or f"outputs moved by {difference:.3g} of their largest value, {tolerance=:g} allowed"
            raise SlimError(
                f"slim: {problem}; the model is as it was; no single group causes it; exclude such layers, give "
                "round_to=8 where a kernel needs such widths, or raise the tolerance where it is rounding"
            )
        coupling.left_out.update(failed)
        coupling.groups[:] = [group for group in coupling.groups if group.name not in failed]
        attention = [group for group in attention if group.name not in failed]


def _zero_dead_units(
    change: Narrowing, example_input: Any, groups: Sequence[Group], attention: Sequence[Group], fold: bool
) -> tuple[list[Tensor], dict[str, int], dict[str, str]]:
    """Zero units that do not contribute, until there are no more of them, and return them."""
    model = change.model
    dead = [torch.zeros(group.units, dtype=torch.bool) for group in (*groups, *attention)]
    folded: dict[str, int] = {}
    constants = ConstantInputs(model, example_input, groups)
    while True:
        now = dead_units(model, groups, constants, fold)
        has_folded = fold_constants(change, groups, now, constants) if fold else {}
        for layer, count in has_folded.items():
            folded[layer] = folded.get(layer, 0) + count
        now += dead_heads(model, attention)
        if all(torch.equal(a, a | b) for a, b in zip(dead, now, strict=True)):
            break
        dead = [a | b for a, b in zip(dead, now, strict=True)]
        if not change.zero([*groups, *attention], [~gone for gone in dead]) and not has_folded:
            break
        constants.refresh(example_input, dead[: len(groups)])
    stuck = constant_units(model, groups, constants)
    return dead, folded, {g.name: f"{n} constant channels stay for {layer!r}" for g, layer, n in stuck}


def _output_change(
    change: Narrowing,
    example_input: Any,
    expected: Sequence[Tensor],
    groups: Sequence[Group],
    kept: Sequence[Tensor],
) -> tuple[float, str]:
    """Return how far the outputs moved, and the error's text where the model no longer runs."""
    try:
        with isolated(change.model), change.matching_instance_norms():
            found = nested_tensors(run_example(change.model, example_input))
            return output_difference(expected, found, groups, kept), ""
    except CouplingError as error:
        return float("inf"), f"{type(error.__cause__).__name__}: {error.__cause__}"


def _attention(
    model: nn.Module, example_input: Any, heads: Mapping[str, int] | None, exclude: Sequence[str], coupling: Coupling
) -> list[Group]:
    """Return the groups of heads that can be removed; the others are added to what is left out, with the reason."""
    groups = attention_heads(model, heads, coupling.left_out if heads is None else None)
    # Grouped-query attention may lose whole groups, and in each group as many query heads.
    names = {group.name for group in groups}
    queries = attention_heads(model, heads, {}, "queries") if groups else []
    groups += [group for group in queries if group.share_values and group.name not in names]
    allowed = []
    for group in groups:
        excluded = [axis.name for axis in group.axes if any(fnmatchcase(axis.name, glob) for glob in exclude)]
        if excluded:
            coupling.left_out[group.name] = f"{excluded[0]!r} is excluded"
        else:
            allowed.append(group)
    if not allowed:
        return []
    with isolated(model):
        failed = failing_groups(model, example_input, allowed)
    coupling.left_out.update({g.name: explain_heads(model, g, failed[g.name]) for g in allowed if g.name in failed})
    return [group for group in allowed if group.name not in failed]


def _round_up(kept: Tensor, multiple: int) -> Tensor:
    """Return ``kept`` with additional units, the first ones, so that their number is a multiple and at least one."""
    count = max(1, int(kept.sum()))
    count = min(-(-count // multiple) * multiple, len(kept))
    more = (~kept).nonzero().flatten()[: count - int(kept.sum())]
    return kept.index_fill(0, more, True)


def _size(change: Narrowing) -> tuple[int, int]:
    held = change.tensors.values()
    return (
        sum(t.numel() for t in held if isinstance(t, nn.Parameter)),
        sum(t.numel() * t.element_size() for t in held),
    )
