"""Which layers write into the same channels, by Torch-Pruning's dependency graph."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from lightning_dynprune.base import nested_tensors
from lightning_dynprune.coupling.group import CouplingError
from lightning_dynprune.coupling.isolation import run_example
from lightning_dynprune.coupling.layers import is_channelwise, mixes_channels, num_output_channels


@dataclass
class WrittenChannels:
    """Channels and the layers that write into them.

    Attributes:
        units: channels.
        writers: names of the layers, in the model's order.
        reason: why they must stay; empty where nothing is known against it.
    """

    units: int
    writers: list[str]
    reason: str = ""
    names: set[str] = field(default_factory=set)


def written_channels(model: nn.Module, example_input: Any) -> list[WrittenChannels]:
    """Return the channels that layers of a model write, those that meet in a sum or a product taken together.

    Gradients must be enabled; ``requires_grad`` of the parameters is set and left so.

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
        if not mixes_channels(module) or name in done or module not in graph.module2node:
            continue
        written = _follow(graph, module, names, parameters)
        done.update(written.writers)
        found.append(written)
    return found


def _build(model: nn.Module, example_input: Any) -> Any:
    try:
        from torch_pruning.dependency import DependencyGraph
    except ImportError as error:
        raise ImportError(
            "following channels through a model needs torch-pruning; pip install 'lightning-dynprune[slim]'"
        ) from error
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point())

    def forward(model: nn.Module, example_input: Any) -> list[torch.Tensor]:
        outputs = [tensor for tensor in nested_tensors(run_example(model, example_input)) if tensor.grad_fn is not None]
        if not outputs:
            raise CouplingError(
                f"{type(model).__name__} gives no tensor that depends on its parameters by autograd; its forward must "
                "not run under no_grad or detach"
            )
        return outputs

    # The graph walks Python lists of autograd nodes; its own warning names parameters that are reported here by group.
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return DependencyGraph().build_dependency(
                model,
                example_input,
                forward_fn=forward,
                unwrapped_parameters=[],
                customized_pruners={},
                ignored_layers=[],
                ignored_params=[],
                verbose=False,
            )
    except CouplingError:
        raise
    except Exception as error:
        raise CouplingError(
            f"Torch-Pruning cannot follow {type(model).__name__}: {type(error).__name__}: {error}; its layers are "
            f"{', '.join(sorted({type(m).__name__ for m in model.modules()}))}"
        ) from error


def _follow(
    graph: Any, root: nn.Module, names: dict[nn.Module, str], parameters: dict[nn.Parameter, str]
) -> WrittenChannels:
    units = num_output_channels(root)
    written = WrittenChannels(units, [names[root]])
    try:
        members = graph.get_pruning_group(root, graph.get_pruner_of_module(root).prune_out_channels, range(units))
    except Exception as error:
        written.reason = f"Torch-Pruning cannot follow {names[root]!r} ({type(error).__name__}: {error})"
        return written
    reasons = []
    for position in range(len(members)):
        item = members[position]
        module, writes = item.dep.target.module, graph.is_out_channel_pruning_fn(item.dep.handler)
        if isinstance(module, nn.Parameter):
            reasons.append(f"meets the parameter {parameters[module]!r}, which no layer known here owns")
        elif isinstance(module, nn.Embedding):
            reasons.append(f"meets the embedding {names[module]!r}")
        elif isinstance(module, _ConvNd) and not mixes_channels(module) and not is_channelwise(module):
            reasons.append(f"meets the grouped convolution {names[module]!r}")
        elif mixes_channels(module) and writes and module is not root:
            width = num_output_channels(module)
            if width == 1:  # one value that scales all channels alike is none of them
                continue
            written.writers.append(names[module])
            # Where two paths meet the pairs come in any order.
            if list(item.idxs) != list(item.root_idxs) or not width == units == len(set(item.idxs)):
                reasons.append(f"shares only some channels with {names[module]!r} (a split or a concatenation)")
    order = list(names.values())
    written.writers = sorted(set(written.writers), key=order.index)
    written.reason = "; ".join(dict.fromkeys(reasons))
    return written
