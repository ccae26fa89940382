"""Verify groups by running the model: removing channels that are zero must not change its outputs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lightning_dynprune.base import map_tensors, max_relative_difference, nested_tensors
from lightning_dynprune.coupling.group import CouplingError, Group
from lightning_dynprune.coupling.isolation import run_example
from lightning_dynprune.coupling.layers import channel_dim
from lightning_dynprune.coupling.narrow import Narrowing


@torch.no_grad()
def failing_groups(model: nn.Module, example_input: Any, groups: Sequence[Group]) -> dict[str, str]:
    """Return the groups whose units cannot be removed, name -> reason.

    The model is run with half the units of each group zero where layers read them, and again with them removed; then
    they are restored. All groups are tried at once, and one by one only if that fails. Heads and experts are zero in
    their weights, of which those that are zero anyway hold noise meanwhile.

    Args:
        model: the network, in eval mode.
        example_input: as for :func:`coupled_groups`.
        groups: the groups to verify.
    """
    if not groups or not _differs(model, example_input, groups):
        return {}
    reasons = {group.name: reason for group in groups if (reason := _differs(model, example_input, [group]))}
    rest = [group for group in groups if group.name not in reasons]
    if rest and (reason := _differs(model, example_input, rest)):
        reasons.update(dict.fromkeys((group.name for group in rest), f"together with other groups: {reason}"))
    return reasons


def _differs(model: nn.Module, example_input: Any, groups: Sequence[Group]) -> str:
    """Return how the outputs change when half the units of some groups are removed; empty if they do not."""
    kept = [_half(group.units) for group in groups]
    change = Narrowing(model, trial=True)
    try:
        _fill_zeros(change, groups)
        whole = [(group, keep) for group, keep in zip(groups, kept, strict=True) if group.modules]
        change.zero([group for group, _ in whole], [keep for _, keep in whole])
        with _unread(model, groups, kept):
            expected, inner = _outputs(model, example_input, groups)
        change.narrow(groups, kept)
        with change.matching_instance_norms():
            found, inner_found = _outputs(model, example_input, groups)
    except CouplingError as error:
        cause = error.__cause__ or error
        return f"the model does not run with fewer of these channels ({type(cause).__name__}: {cause})"
    finally:
        change.undo()
    # What heads or experts add may be small beside the rest of the model, so their own outputs are compared too.
    pairs = [(a, b) for a, b in zip(inner, inner_found, strict=False) if a.shape == b.shape]
    expected, found = expected + [a for a, _ in pairs], found + [b for _, b in pairs]
    difference = output_difference(expected, found, groups, kept)
    if difference <= rounding_tolerance(expected):
        return ""
    return f"removing them while they are zero changes the outputs by {difference:.3g}"


@contextmanager
def _unread(model: nn.Module, groups: Sequence[Group], kept: Sequence[Tensor]) -> Iterator[None]:
    """Let layers read zeros in place of the channels that are not kept, which takes no copy of their weights."""
    positions: dict[str, list[Tensor]] = {}
    for group, keep in zip(groups, kept, strict=True):
        for axis in () if group.modules else group.axes:
            if not axis.writes:
                positions.setdefault(axis.name.rpartition(".")[0], []).append(axis.index[~keep].flatten())

    def replace(unread: Tensor, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        def zeroed(tensor: Tensor) -> Tensor:
            return tensor.index_fill(channel_dim(module), unread.to(tensor.device), 0)

        return map_tensors(zeroed, args), map_tensors(zeroed, kwargs)

    handles = [
        model.get_submodule(name).register_forward_pre_hook(partial(replace, torch.cat(unread)), with_kwargs=True)
        for name, unread in positions.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _fill_zeros(change: Narrowing, groups: Sequence[Group]) -> None:
    """Put noise in place of zeros, which would hide that heads or experts lie in other places than supposed."""
    generator = torch.Generator().manual_seed(0)
    for name in dict.fromkeys(axis.name for group in groups if group.modules for axis in group.axes):
        data = change.tensors[name].data
        if data.is_floating_point() and bool((data == 0).any()):
            scale = float(data[data != 0].float().abs().mean()) if data.any() else data.shape[-1] ** -0.5
            noise = scale * torch.randn(data.shape, generator=generator)
            change.set(name, torch.where(data == 0, noise.to(data), data), change.tensors[name].grad)


def _outputs(model: nn.Module, example_input: Any, groups: Sequence[Group]) -> tuple[list[Tensor], list[Tensor]]:
    """Return the outputs of a model, and those of the modules that hold the units of groups, in the order of calls."""
    inner: list[Tensor] = []

    def record(module: nn.Module, args: Any, output: Any) -> None:
        inner.extend(tensor.clone() for tensor in nested_tensors(output)[:1])  # others may be means over heads

    modules = {name for group in groups for name in group.modules}
    handles = [model.get_submodule(name).register_forward_hook(record) for name in modules]
    try:
        return [tensor.clone() for tensor in nested_tensors(run_example(model, example_input))], inner
    finally:
        for handle in handles:
            handle.remove()


def output_difference(
    expected: Sequence[Tensor], found: Sequence[Tensor], groups: Sequence[Group], kept: Sequence[Tensor]
) -> float:
    """Return the largest relative difference of outputs before and after units were removed.

    Outputs that hold an entry for each head, such as key/value caches and attention maps, lose those of the removed
    heads; they are compared on the others. Infinite where the shapes differ otherwise.

    Args:
        expected: the outputs with the units zero.
        found: the outputs with the units removed.
        groups: the groups.
        kept: for each group the units that were kept, bool ``(units,)``.

    Example:
        >>> group = Group("k.weight", 2, (), modules=("attention",))
        >>> before, after = torch.tensor([[1.0, 2.0, 0.0, 0.0]]), torch.tensor([[1.0, 2.0]])
        >>> output_difference([before], [after], [group], [torch.tensor([True, False])])
        0.0
    """
    if len(expected) != len(found):
        return math.inf
    pairs = zip(expected, found, strict=True)
    return max((_difference(before, after, groups, kept) for before, after in pairs), default=0.0)


def _difference(before: Tensor, after: Tensor, groups: Sequence[Group], kept: Sequence[Tensor]) -> float:
    """Return the relative difference of two tensors, of which the second may lack the entries of removed heads."""
    smaller = [dim for dim in range(before.dim()) if before.dim() == after.dim() and before.size(dim) > after.size(dim)]
    if len(smaller) != 1:
        return max_relative_difference([before], [after])
    (dim,) = smaller
    differences = {math.inf}
    for group, keep in zip(groups, kept, strict=True):
        width = before.size(dim) // group.units
        if group.modules and width * group.units == before.size(dim) and width * int(keep.sum()) == after.size(dim):
            for entries in (keep.repeat_interleave(width), keep.repeat(width)):  # contiguous, or one in every group
                rest = before.index_select(dim, entries.nonzero().flatten().to(before.device))
                differences.add(max_relative_difference([rest], [after]))
    return min(differences)


def rounding_tolerance(outputs: Sequence[Tensor]) -> float:
    """Return the relative difference that rounding may cause in outputs of this dtype: a thousand times its epsilon."""
    return max((1e3 * torch.finfo(t.dtype).eps for t in outputs if t.is_floating_point()), default=0.0)


def _half(units: int) -> Tensor:
    order = torch.randperm(units, generator=torch.Generator().manual_seed(units))
    return torch.ones(units, dtype=torch.bool).index_fill_(0, order[: units // 2], False)


def explain_heads(model: nn.Module, group: Group, reason: str) -> str:
    """Return why heads of attention modules cannot be removed, and the settings that leave them out.

    Args:
        model: the network.
        group: of heads.
        reason: from :func:`failing_groups`.
    """
    kinds = {name: model.get_submodule(name) for name in group.modules}
    first, module = next(iter(kinds.items()))
    others = f" and {len(kinds) - 1} like it" if len(kinds) > 1 else ""
    zeros = ", ".join(f"{name!r}: 0" for name in kinds)
    return (
        f"its heads stay: {type(module).__name__} {first!r}{others} does not compute the same with fewer heads "
        f"({reason}); its forward must keep the head size fixed and derive all else from the number of heads, as "
        f"unflatten(-1, (3, self.num_heads, -1)) and flatten(-2) do; give heads={{{zeros}}} to leave it out"
    )
