"""The parts of Torch-Pruning's dependency graph that this room uses, none of which is a documented interface.

If one of them changes, :func:`coupled_groups` finds no groups: the graph is built by ``DependencyGraph``, whose nodes,
pruning groups and index lists are read here and nowhere else.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Member:
    """A layer or parameter that shares channels with the root layer of a pruning group.

    Attributes:
        module: the layer, or an ``nn.Parameter`` that no layer known to Torch-Pruning owns.
        writes: whether the channels are its outputs.
        indices: positions of the channels in this layer.
        root_indices: positions of the same channels in the root layer.
    """

    module: nn.Module | nn.Parameter
    writes: bool
    indices: list[int]
    root_indices: list[int]


class DependencyGraph:
    """Torch-Pruning's dependency graph of a model.

    Args:
        model: the network; gradients must be enabled.
        example_input: passed on to ``forward``.
        forward: runs the model and returns output tensors with a ``grad_fn``.

    Raises:
        ImportError: torch-pruning is missing.
        Exception: whatever Torch-Pruning raises for a model that it cannot trace.
    """

    def __init__(self, model: nn.Module, example_input: Any, forward: Callable[..., list[Tensor]]) -> None:
        try:
            from torch_pruning.dependency import DependencyGraph as Graph
        except ImportError as error:
            raise ImportError(
                "following channels through a model needs torch-pruning; pip install 'lightning-dynprune[slim]'"
            ) from error
        # Torch-Pruning warns of parameters that it does not know; they are reported per group here.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._graph = Graph().build_dependency(
                model,
                example_input,
                forward_fn=forward,
                unwrapped_parameters=[],
                customized_pruners={},
                ignored_layers=[],
                ignored_params=[],
                verbose=False,
            )

    def __contains__(self, module: nn.Module) -> bool:
        """Return whether the forward pass used a module."""
        return module in self._graph.module2node

    def members(self, root: nn.Module, channels: int) -> Iterator[Member]:
        """Yield the layers and parameters that must lose output channels together with a layer.

        Args:
            root: the layer.
            channels: its number of output channels.
        """
        prune = self._graph.get_pruner_of_module(root).prune_out_channels
        group = self._graph.get_pruning_group(root, prune, range(channels))
        for position in range(len(group)):
            item = group[position]
            writes = self._graph.is_out_channel_pruning_fn(item.dep.handler)
            yield Member(item.dep.target.module, writes, list(item.idxs), list(item.root_idxs))
