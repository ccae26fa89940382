"""Find the hidden channels of experts whose weights are stacked in parameters of three dimensions."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from lightning_dynprune.base import is_whole
from lightning_dynprune.coupling.group import Axis, Group
from lightning_dynprune.coupling.verify import failing_groups
from lightning_dynprune.targets import is_expert_weight

EXPERT_ATTRIBUTES = ("intermediate_dim", "intermediate_size", "expert_dim", "ffn_dim", "moe_intermediate_size")
_DOWN = re.compile(r"down|output|(^|_)w(2|o)$")


def expert_channels(model: nn.Module) -> dict[str, list[Group]]:
    """Return for each module with stacked experts the groups that its hidden channels may be, one for each layout.

    The module holds the weights of all experts: one that maps back to the width of the input (``down_proj``, ``w2``),
    and those that compute the hidden channels: one each, or gates and values in one weight, side by side or in turns. A
    unit is the hidden channel of one number in all experts. Which layout is right shows when the model is run with
    fewer channels, see :func:`~lightning_dynprune.coupling.verify.failing_groups`.

    Args:
        model: the network.

    Example:
        >>> class Experts(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.gate_up_proj = nn.Parameter(torch.randn(3, 8, 5))
        ...         self.down_proj = nn.Parameter(torch.randn(3, 5, 4))
        >>> for group in expert_channels(nn.Sequential(Experts()))["0"]:
        ...     print(group.units, [(axis.name, axis.dim, axis.index[0].tolist()) for axis in group.axes])
        4 [('0.gate_up_proj', 1, [0, 4]), ('0.down_proj', 2, [0])]
        4 [('0.gate_up_proj', 1, [0, 1]), ('0.down_proj', 2, [0])]
    """
    found = {}
    # In the order of the modules; stacked weights have three dimensions, and only few modules hold such.
    every = model.named_parameters(remove_duplicate=False)
    stacked = [name for name, p in every if not isinstance(p, UninitializedParameter) and p.dim() == 3]
    holders = dict.fromkeys(name.rpartition(".")[0] for name in stacked)
    for name in holders:
        module = model.get_submodule(name)
        own = dict(module.named_parameters(recurse=False))
        weights = {local: p for local, p in own.items() if is_expert_weight(module, local, p)}
        down = [local for local in weights if _DOWN.search(local)]
        if len(down) == 1 and len(weights) > 1 and (groups := list(_layouts(name, module, own, weights, down[0]))):
            found[name] = groups
    return found


def verified_experts(
    model: nn.Module, example_input: Any, writers: Collection[str] | None = None
) -> tuple[list[Group], dict[str, str]]:
    """Return the groups of hidden channels of experts for which the model runs with fewer channels.

    Args:
        model: the network, in eval mode.
        example_input: as for :func:`~lightning_dynprune.coupling.coupled_groups`.
        writers: names of the weights whose channels may be removed; None for all.

    Returns:
        The groups, and for each module without one the name of its first weight and the reason.
    """
    groups, left_out = [], {}
    for name, candidates in expert_channels(model).items():
        if writers is not None and candidates[0].name not in writers:
            continue
        for group in candidates:
            failed = failing_groups(model, example_input, [group])
            if not failed:
                groups.append(group)
                break
        else:
            kind = type(model.get_submodule(name)).__name__
            reason = failed[candidates[-1].name]
            left_out[candidates[0].name] = f"the experts of {kind} {name!r} stay: {reason}"
    return groups, left_out


def _layouts(
    name: str, module: nn.Module, own: dict[str, nn.Parameter], weights: dict[str, nn.Parameter], down: str
) -> Iterator[Group]:
    """Yield the groups that the shapes of a module's weights allow."""
    computing = {local: weight for local, weight in weights.items() if local != down}
    for column, row in ((2, 1), (1, 2), (2, 2), (1, 1)):
        units, inputs = weights[down].shape[column], weights[down].shape[3 - column]
        if any(w.shape[3 - row] != inputs or w.shape[row] not in (units, 2 * units) for w in computing.values()):
            continue
        gated = any(weight.shape[row] == 2 * units for weight in computing.values())
        for in_turns in (False, True) if gated else (False,):
            axes = []
            for local, weight in computing.items():
                index = _positions(units, weight.shape[row] // units, in_turns)
                axes.append(Axis(_join(name, local), row, True, index))
                axes += [
                    Axis(_join(name, other), 1, True, index)
                    for other, bias in own.items()
                    if other in (f"{local}_bias", local.replace("weight", "bias"))
                    and bias.shape == (weight.shape[0], weight.shape[row])
                ]
            axes.append(Axis(_join(name, down), column, False, _positions(units, 1, False)))
            attributes = tuple(
                _join(name, local)
                for local in EXPERT_ATTRIBUTES
                if is_whole(getattr(module, local, None), low=1) and getattr(module, local) == units
            )
            yield Group(axes[0].name, units, tuple(axes), attributes, modules=(name,))


def _positions(units: int, width: int, in_turns: bool) -> Tensor:
    """Return the positions of each unit, ``(units, width)``: one in every part, or next to one another."""
    every = torch.arange(units * width)
    return every.view(units, width) if in_turns else every.view(width, units).T.contiguous()


def _join(prefix: str, local: str) -> str:
    return f"{prefix}.{local}" if prefix else local
