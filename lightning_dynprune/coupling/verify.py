"""The test that every group must pass: without its zero channels the model computes what it did with them."""

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
    """Return the groups that fail, name -> reason: half the units of each are taken out, and put back.

    Args:
        model: the network, in eval mode.
        example_input: as for :func:`coupled_groups`.
        groups: tried all at once, and one by one only where that fails.
    """
    if not groups or not _differs(model, example_input, groups):
        return {}
    reasons = {group.name: reason for group in groups if (reason := _differs(model, example_input, [group]))}
    rest = [group for group in groups if group.name not in reasons]
    if rest and (reason := _differs(model, example_input, rest)):
        reasons.update(dict.fromkeys((group.name for group in rest), f"together with other groups: {reason}"))
    return reasons


def _differs(model: nn.Module, example_input: Any, groups: Sequence[Group]) -> str:
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
    apart = max_relative_difference(expected, found)
    return "" if apart <= rounding_tolerance(expected) else f"without them, zero, the outputs change by {apart:.3g}"


def rounding_tolerance(outputs: Sequence[Tensor]) -> float:
    """Return how far apart rounding alone may bring outputs of this precision: a thousand times its epsilon."""
    return max((1e3 * torch.finfo(t.dtype).eps for t in outputs if t.is_floating_point()), default=0.0)


def _half(units: int) -> Tensor:
    order = torch.randperm(units, generator=torch.Generator().manual_seed(units))
    return torch.ones(units, dtype=torch.bool).index_fill_(0, order[: units // 2], False)
