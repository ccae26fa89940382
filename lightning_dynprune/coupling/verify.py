"""Verify groups by running the model: removing channels that are zero must not change its outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_dynprune.base import max_relative_difference, nested_tensors
from lightning_dynprune.coupling.group import CouplingError, Group
from lightning_dynprune.coupling.isolation import run_example
from lightning_dynprune.coupling.narrow import Narrowing


@torch.no_grad()
def failing_groups(model: nn.Module, example_input: Any, groups: Sequence[Group]) -> dict[str, str]:
    """Return the groups whose units cannot be removed, name -> reason.

    The model is run with half the units of each group zero, and again with them removed; then they are restored. All
    groups are tried at once, and one by one only if that fails.

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
        change.zero(groups, kept)
        expected = [tensor.clone() for tensor in nested_tensors(run_example(model, example_input))]
        change.narrow(groups, kept)
        with change.matching_instance_norms():
            found = nested_tensors(run_example(model, example_input))
    except CouplingError as error:
        cause = error.__cause__ or error
        return f"the model does not run with fewer of these channels ({type(cause).__name__}: {cause})"
    finally:
        change.undo()
    difference = max_relative_difference(expected, found)
    if difference <= rounding_tolerance(expected):
        return ""
    return f"removing them while they are zero changes the outputs by {difference:.3g}"


def rounding_tolerance(outputs: Sequence[Tensor]) -> float:
    """Return the relative difference that rounding may cause in outputs of this dtype: a thousand times its epsilon."""
    return max((1e3 * torch.finfo(t.dtype).eps for t in outputs if t.is_floating_point()), default=0.0)


def _half(units: int) -> Tensor:
    order = torch.randperm(units, generator=torch.Generator().manual_seed(units))
    return torch.ones(units, dtype=torch.bool).index_fill_(0, order[: units // 2], False)
