"""Split a network's forward at named modules into stages that run one after the other.

A forward that torch.fx can trace is split into graphs. The values that cross a cut are known then, so that inputs that
are done are taken out of all of them, and the rest of the batch goes on together. No other way to cut knows these
values; a forward that torch.fx cannot trace is therefore run by
:class:`~lightning_dynprune.adaptive.exits.running.HookRunner`, in small pieces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn

from lightning_dynprune.adaptive.base import AdaptiveModule
from lightning_dynprune.adaptive.forward_cut import batch_of
from lightning_dynprune.base import call_model, map_tensors, max_absolute_difference, split_arguments

Kind = Literal["inputs", "count", "fixed"]
_SIZES = (2, 3)  # batches at which values that cross a cut are compared
_TOLERANCE = 1e-4  # relative; other batch sizes take other kernels
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_IDLE = (nn.Identity, nn.Dropout, AdaptiveModule)  # in eval mode; AdaptiveModule stands in an nn.Sequential


class OneNode(nn.Module):
    """Base class of modules that are one node of a traced forward, as they branch on their inputs."""


class StageError(ValueError):
    """A forward cannot be split into stages; the message says why."""


@dataclass(frozen=True)
class Stage:
    """The part of a forward between two cuts.

    Args:
        module: computes the values that cross the next cut from those that crossed the last one; the features of the
            next cut come first. The last stage returns the model's output alone.
        crossing: for each value that crosses the next cut, what it is: ``inputs``, a tensor with one entry an input
            along its first dimension; ``count``, the number of inputs; ``fixed``, the same for all inputs.
    """

    module: fx.GraphModule
    crossing: tuple[Kind, ...]


class _CutTracer(fx.Tracer):
    """Traces a forward as it is called with an example: arguments that the example leaves out keep their defaults."""

    def __init__(self, cuts: Sequence[str], example: Any) -> None:
        super().__init__()
        self.cuts, self.example = set(cuts), example
        self.outputs: dict[str, list[fx.Node | None]] = {}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Return whether a module is one node of the graph: one of torch without modules of its own, or a OneNode."""
        is_torch = super().is_leaf_module(m, module_qualified_name) and not isinstance(m, _CONTAINERS)
        return is_torch or isinstance(m, OneNode)

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        """Trace a call, without layers that do nothing in eval mode, and note the output of a cut."""
        name = self.path_of_module(m)
        output = args[0] if isinstance(m, _IDLE) and args else super().call_module(m, forward, args, kwargs)
        if name in self.cuts:
            self.outputs.setdefault(name, []).append(output.node if isinstance(output, fx.Proxy) else None)
        return output

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> Any:
        """Return the forward and a placeholder for each argument that the example gives."""
        args, kwargs = split_arguments(self.example)
        values = [self.create_proxy("placeholder", f"input_{i}", (), {}) for i in range(len(args) + len(kwargs))]

        def call(root: nn.Module, *given: Any) -> Any:
            return root_fn(root, *given[: len(args)], **dict(zip(kwargs, given[len(args) :], strict=True)))

        return call, [self.root, *values]


@torch.no_grad()
def split_into_stages(model: nn.Module, cuts: Sequence[str], example: Any) -> list[Stage]:
    """Return the stages of a forward, one more than cuts; they share the model's modules and parameters.

    The stages are checked against the model: on batches of two and three samples, and with a sample taken out after
    the first cut.

    Args:
        model: the network, in eval mode.
        cuts: qualified names of modules, in the order of the forward.
        example: inputs of at least one sample.

    Raises:
        StageError: torch.fx cannot trace the forward, a number that depends on the batch crosses a cut, or the stages
            compute something else than the model.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)).eval()
        >>> first, last = split_into_stages(net, ["1"], torch.ones(2, 2))
        >>> torch.equal(last.module(*first.module(torch.ones(2, 2))), net(torch.ones(2, 2)))
        True
    """
    try:
        tracer = _CutTracer(cuts, example)
        graph = tracer.trace(model)
    except Exception as error:  # fx raises whatever the traced forward raises on proxies
        raise StageError(f"torch.fx cannot trace the forward: {type(error).__name__}: {error}") from error
    modules = _split(model, graph, [tracer.outputs.get(cut, []) for cut in cuts])
    batches = [_repeated(example, size) for size in _SIZES]
    crossings = [_crossing_values(modules, model, batch) for batch in batches]
    stages = [
        Stage(module, tuple(_kind(*values) for values in zip(*each, strict=True)))
        for module, *each in zip(modules, *crossings, strict=True)
    ]
    if cuts:
        _check_leaving(stages, model, batches[-1])
    return stages


def flat_form(model: nn.Module, example: Any) -> nn.Module:
    """Return a model's forward as one graph of layers, which has less overhead than nested modules.

    Args:
        model: the network, in eval mode.
        example: positional inputs of at least one sample; the graph takes the same.

    Returns:
        The graph; the model itself where torch.fx cannot trace it, or the example has keyword arguments.
    """
    if split_arguments(example)[1]:
        return model
    try:
        return split_into_stages(model, [], example)[0].module
    except StageError:
        return model


def stage_inputs(inputs: Any) -> tuple[Any, ...]:
    """Return the arguments of the first stage for inputs of the model, given as in the example of the split."""
    args, kwargs = split_arguments(inputs)
    return (*args, *kwargs.values())


def without_inputs(values: Sequence[Any], kinds: Sequence[Kind], kept: Tensor) -> tuple[Any, ...]:
    """Return the values that cross a cut for some of the inputs.

    Args:
        values: that cross the cut.
        kinds: what they are, as in ``Stage.crossing``.
        kept: indices of the inputs that go on.
    """
    found: list[Any] = []
    for value, kind in zip(values, kinds, strict=True):
        if kind == "inputs":
            value = value.index_select(0, kept)
        found.append(len(kept) if kind == "count" else value)
    return tuple(found)


def _split(model: nn.Module, graph: fx.Graph, cuts: Sequence[Sequence[fx.Node | None]]) -> list[fx.GraphModule]:
    """Return one graph module for each part of a graph between two cuts."""
    nodes = list(graph.nodes)
    ends = []
    for found in cuts:
        if len(found) != 1 or found[0] is None:
            raise StageError(f"the traced forward calls a module of after {len(found)} times, or it returns no tensor")
        ends.append(nodes.index(found[0]))
    if sorted(set(ends)) != ends:
        raise StageError("two modules of after end at one place of the traced forward, or in another order")
    inputs = [node for node in nodes if node.op == "placeholder"]
    parts: list[fx.GraphModule] = []
    start = 0
    for end in [*ends, len(nodes) - 1]:
        is_last = end == len(nodes) - 1
        crossing = [] if is_last else _crossing(nodes, end)
        parts.append(_part(model, nodes, (start, end + 1), inputs, crossing, is_last))
        inputs, start = crossing, end + 1
    return parts


def _crossing(nodes: Sequence[fx.Node], end: int) -> list[fx.Node]:
    """Return the values that nodes after a cut read from before it; the cut's own output is first."""
    position = {node: i for i, node in enumerate(nodes)}
    before = [
        node for node in nodes[:end] if node.op != "get_attr" and any(position[user] > end for user in node.users)
    ]
    return [nodes[end], *before]


def _part(
    model: nn.Module,
    nodes: Sequence[fx.Node],
    bounds: tuple[int, int],
    inputs: Sequence[fx.Node],
    outputs: Sequence[fx.Node],
    is_last: bool,
) -> fx.GraphModule:
    """Return the graph module of the nodes within bounds."""
    graph = fx.Graph()
    made = {node: graph.placeholder(f"value_{i}") for i, node in enumerate(inputs)}

    def value(node: fx.Node) -> fx.Node:
        if node not in made:  # a parameter that is read in a later part too
            made[node] = graph.node_copy(node, value)
        return made[node]

    for node in nodes[slice(*bounds)]:
        if node.op not in ("placeholder", "output", "get_attr"):
            made[node] = graph.node_copy(node, value)
    if is_last:
        (output,) = [node for node in nodes if node.op == "output"]
        graph.output(fx.map_arg(output.args[0], value))
    else:
        graph.output(tuple(value(node) for node in outputs))
    return fx.GraphModule(model, graph)


def _repeated(example: Any, size: int) -> Any:
    """Return a batch of another size, made of an example's samples."""
    order = torch.arange(size) % batch_of(example)
    return map_tensors(lambda tensor: tensor[order.to(tensor.device)], example)


def _crossing_values(modules: Sequence[fx.GraphModule], model: nn.Module, batch: Any) -> list[tuple[Any, ...]]:
    """Run all stages; return the values that cross each cut, and no value for the last stage."""
    values, crossings = stage_inputs(batch), []
    for module in modules[:-1]:
        values = module(*values)
        crossings.append(tuple(values))
    _check_equal(modules[-1](*values), call_model(model, batch), "the stages")
    return [*crossings, ()]


def _kind(*values: Any) -> Kind:
    """Return what a value that crosses a cut is, from its values at two batch sizes.

    Raises:
        StageError: it is no tensor and depends on the batch, or its shape does in another way.
    """
    first, second = values
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        if first.shape == second.shape:
            if not torch.equal(first, second):
                raise StageError("a tensor without batch dimension crosses a cut and depends on the inputs")
            return "fixed"
        if (first.shape[:1], second.shape[:1]) == ((_SIZES[0],), (_SIZES[1],)) and first.shape[1:] == second.shape[1:]:
            return "inputs"
        raise StageError(f"a tensor of shape {tuple(first.shape)} crosses a cut; its first dimension is not the batch")
    if type(first) is type(second) is int and (first, second) == _SIZES:
        return "count"
    if isinstance(first, (int, float, bool, str, type(None), torch.dtype, torch.device)) and first == second:
        return "fixed"
    raise StageError(
        f"{type(first).__name__} crosses a cut: it is {first} for {_SIZES[0]} inputs and {second} for {_SIZES[1]}"
    )


def _check_leaving(stages: Sequence[Stage], model: nn.Module, batch: Any) -> None:
    """Raise unless the stages compute the same for one input alone after the first cut."""
    values = stage_inputs(batch)
    kept = torch.tensor([1], device=next(v.device for v in values if isinstance(v, Tensor)))
    for position, stage in enumerate(stages[:-1]):
        values = stage.module(*values)
        if position == 0:
            values = without_inputs(values, stage.crossing, kept)
    _check_equal(stages[-1].module(*values), call_model(model, batch)[1:2], "the stages after one input has left")


def _check_equal(found: Tensor, expected: Tensor, what: str) -> None:
    limit = _TOLERANCE * max(1.0, float(expected.detach().abs().max()))
    if found.shape != expected.shape or max_absolute_difference(found, expected) > limit:
        raise StageError(f"{what} compute something else than the model")
