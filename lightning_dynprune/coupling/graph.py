"""Which layers write into the same channels, found by Torch-Pruning's dependency graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from lightning_dynprune.base import CONVOLUTIONS, nested_tensors
from lightning_dynprune.coupling.compat import DependencyGraph
from lightning_dynprune.coupling.group import CouplingError
from lightning_dynprune.coupling.isolation import run_example
from lightning_dynprune.coupling.layers import is_channelwise, mixes_channels, num_output_channels


@dataclass
class WrittenChannels:
    """Channels and the layers that write into them.

    Attributes:
        units: number of channels.
        writers: names of the layers, in the model's order.
        reason: why the channels cannot be removed; empty if no reason is known.
    """

    units: int
    writers: list[str]
    reason: str = ""


def written_channels(model: nn.Module, example_input: Any) -> list[WrittenChannels]:
    """Return the channels that layers of a model write; layers whose outputs are added or multiplied share an entry.

    Gradients must be enabled. ``requires_grad`` of the parameters is changed.

    Raises:
        ImportError: torch-pruning is missing.
        CouplingError: the model does not run on the example, or its graph cannot be built.
    """
    graph = _build(model, example_input)
    names = {module: name for name, module in model.named_modules()}
    parameters = {parameter: name for name, parameter in model.named_parameters()}
    found: list[WrittenChannels] = []
    done: set[str] = set()
    for name, module in model.named_modules():
        if not mixes_channels(module) or name in done or module not in graph:
            continue
        written = _follow(graph, module, names, parameters)
        done.update(written.writers)
        found.append(written)
    return found


def _build(model: nn.Module, example_input: Any) -> DependencyGraph:
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point())

    def forward(model: nn.Module, example_input: Any) -> list[Tensor]:
        outputs = [tensor for tensor in nested_tensors(run_example(model, example_input)) if tensor.grad_fn is not None]
        if not outputs:
            raise CouplingError(
                f"{type(model).__name__} gives no tensor that depends on its parameters by autograd; its forward must "
                "not run under no_grad or detach its outputs"
            )
        return outputs

    try:
        return DependencyGraph(model, example_input, forward)
    except (CouplingError, ImportError):
        raise
    except Exception as error:
        raise CouplingError(
            f"Torch-Pruning cannot follow {type(model).__name__}: {type(error).__name__}: {error}; its layers are "
            f"{', '.join(sorted({type(m).__name__ for m in model.modules()}))}"
        ) from error


def _follow(
    graph: DependencyGraph, root: nn.Module, names: dict[nn.Module, str], parameters: dict[nn.Parameter, str]
) -> WrittenChannels:
    """Return the channels that one layer writes, with the other layers that write into them."""
    units = num_output_channels(root)
    written = WrittenChannels(units, [names[root]])
    try:
        members = list(graph.members(root, units))
    except Exception as error:
        written.reason = f"Torch-Pruning cannot follow {names[root]!r} ({type(error).__name__}: {error})"
        return written
    reasons = []
    for member in members:
        module = member.module
        if isinstance(module, nn.Parameter):
            reasons.append(f"meets the parameter {parameters[module]!r}, which no layer known here owns")
        elif isinstance(module, nn.Embedding):
            reasons.append(f"meets the embedding {names[module]!r}")
        elif isinstance(module, CONVOLUTIONS) and not mixes_channels(module) and not is_channelwise(module):
            reasons.append(f"meets the grouped convolution {names[module]!r}")
        elif mixes_channels(module) and member.writes and module is not root:
            width = num_output_channels(module)
            if width == 1:  # a single value that scales all channels alike
                continue
            written.writers.append(names[module])
            # The pairs of indices come in any order, but each must be a pair of equal numbers.
            if member.indices != member.root_indices or not width == units == len(set(member.indices)):
                reasons.append(f"shares only some channels with {names[module]!r} (a split or a concatenation)")
    order = list(names.values())
    written.writers = sorted(set(written.writers), key=order.index)
    written.reason = "; ".join(dict.fromkeys(reasons))
    return written
