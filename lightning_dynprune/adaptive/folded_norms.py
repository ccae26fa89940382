"""The fastest dense form of a network: batch norms folded into convolutions, images with their channels last."""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from lightning_dynprune.base import BATCH_NORMS, call_model, nested_tensors

_FOLDING = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_TOLERANCE = 1e-4  # relative; folding rounds otherwise


class LayerTracer(fx.Tracer):
    """Traces a forward so that every layer is a node."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Return whether a module has no children, so that every layer is a node."""
        return not list(m.children())


@torch.no_grad()
def dense_form(model: nn.Module, example: Any) -> nn.Module:
    """Return a copy for inference in its fastest dense form; names of modules stay.

    A batch norm that alone reads the output of a convolution or Linear is folded into it, and an ``nn.Identity`` stands
    in its place, where torch.fx traces the forward. Weights of two-dimensional convolutions get the memory format
    ``channels_last``.

    Args:
        model: the network; it is not changed.
        example: inputs, on which the copy is checked.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU()).eval()
        >>> [type(module).__name__ for module in dense_form(net, torch.zeros(1, 1, 4, 4))]
        ['Conv2d', 'Identity', 'ReLU']
    """
    plain = copy.deepcopy(model).eval().requires_grad_(False)
    form = copy.deepcopy(plain)
    try:
        graph = LayerTracer().trace(form)
    except Exception:  # fx raises whatever a forward raises on proxies; such a network keeps its batch norms
        graph = fx.Graph()
    for layer, norm in _pairs(form, graph):
        module, batch_norm = form.get_submodule(layer), cast("nn.BatchNorm2d", form.get_submodule(norm))
        if isinstance(module, nn.Linear):
            folded: nn.Module = fuse_linear_bn_eval(module, batch_norm)
        else:
            folded = fuse_conv_bn_eval(cast("nn.Conv2d", module), batch_norm)
        form.set_submodule(layer, folded)
        form.set_submodule(norm, nn.Identity())
    for module in form.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
    expected, found = (nested_tensors(call_model(each, example)) for each in (plain, form))
    return form if all(_is_close(a, b) for a, b in zip(expected, found, strict=True)) else plain


def _pairs(model: nn.Module, graph: fx.Graph) -> list[tuple[str, str]]:
    """Return the names of layers and of the batch norms that alone read their outputs; each is called once."""
    calls: dict[str, int] = {}
    for node in graph.nodes:
        if node.op == "call_module":
            calls[node.target] = calls.get(node.target, 0) + 1
    pairs = []
    for node in graph.nodes:
        reads = node.args[0] if node.op == "call_module" and node.args else None
        if not isinstance(reads, fx.Node) or reads.op != "call_module" or len(reads.users) != 1:
            continue
        layer, norm = (model.get_submodule(str(each.target)) for each in (reads, node))
        is_pair = isinstance(layer, _FOLDING) and isinstance(norm, BATCH_NORMS)
        has_statistics = getattr(norm, "running_mean", None) is not None
        if is_pair and has_statistics and calls[str(reads.target)] == calls[str(node.target)] == 1:
            pairs.append((str(reads.target), str(node.target)))
    return pairs


def _is_close(expected: Tensor, found: Tensor) -> bool:
    limit = _TOLERANCE * max(1.0, float(expected.abs().max())) if expected.numel() else 0.0
    return bool(((expected - found).abs() <= limit).all())
