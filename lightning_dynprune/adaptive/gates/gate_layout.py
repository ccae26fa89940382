"""Find the convolutions of a network that can be gated, their batch norms, and where their inputs come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from lightning_dynprune.adaptive.folded_norms import LayerTracer
from lightning_dynprune.adaptive.forward_cut import called_modules
from lightning_dynprune.base import name_some
from lightning_dynprune.deploy.measurement import count_macs

_FEWEST = 16  # channels of a convolution that "auto" gates: of fewer the gate costs what it saves
# Layers that act on each channel alone and leave a channel of zeros zero.
_KEEP_ZEROS = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Tanh, nn.MaxPool2d,
    nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Identity, nn.Dropout, nn.Dropout2d,
)  # fmt: skip
_KEEP_ZEROS_CALLS = (F.relu, torch.relu, F.gelu, F.silu, F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d)


@dataclass(frozen=True)
class GatedLayer:
    """A convolution whose output channels are gated.

    Args:
        name: qualified name of the convolution.
        norm: name of the batch norm that alone reads it; empty: none.
        inputs: channels that it reads.
        outputs: channels that it writes.
        pixels: positions of its output.
        share: its multiply-adds as a share of the network's.
        gate_share: multiply-adds of its gate, likewise.
        source: number of the gated layer whose channels it alone reads; -1: none.
    """

    name: str
    norm: str
    inputs: int
    outputs: int
    pixels: int
    share: float
    gate_share: float
    source: int


@torch.no_grad()
def find_gated_layers(model: nn.Module, example: Any, names: Sequence[str] | str) -> list[GatedLayer]:
    """Return the convolutions that can be gated, in the order of the forward.

    Args:
        model: the network, in eval mode.
        example: inputs of at least one sample.
        names: qualified names of convolutions, or "auto" for all with at least 16 output channels.

    Raises:
        ValueError: torch.fx cannot trace the forward, a name is of no convolution that can be gated, or there is none.
    """
    try:
        graph = LayerTracer().trace(model)
    except Exception as error:  # fx raises whatever a forward raises on proxies
        raise ValueError(
            f"channel_gate: torch.fx cannot trace the forward of {type(model).__name__}, so what reads a convolution "
            f"is unknown: {type(error).__name__}: {error}"
        ) from error
    macs, calls = count_macs(model, example), called_modules(model, example)
    nodes = [node for node in graph.nodes if node.op == "call_module" and _is_plain(model, node)]
    times = [node.target for node in graph.nodes if node.op == "call_module"]
    possible = {str(node.target): node for node in nodes if times.count(node.target) == 1}
    chosen = _chosen(model, possible, names, calls)
    ends: dict[fx.Node, int] = {}  # the last node of a gated layer -> its number
    layers: list[GatedLayer] = []
    for name, node in possible.items():
        if name not in chosen:
            continue
        convolution, norm = model.get_submodule(name), _norm_after(model, node)
        assert isinstance(convolution, nn.Conv2d)
        output = calls[name][0]
        pixels = output.shape[2] * output.shape[3]
        weights = convolution.weight.numel()
        ends[norm or node] = len(layers)
        layers.append(
            GatedLayer(
                name=name,
                norm=str(norm.target) if norm is not None else "",
                inputs=convolution.in_channels,
                outputs=convolution.out_channels,
                pixels=pixels,
                share=weights * pixels * output.shape[0] / macs,
                gate_share=convolution.in_channels * convolution.out_channels * output.shape[0] / macs,
                source=_source(model, node, ends),
            )
        )
    return layers


def _is_plain(model: nn.Module, node: fx.Node) -> bool:
    module = model.get_submodule(str(node.target))
    return type(module) is nn.Conv2d and module.groups == 1 and module.padding_mode == "zeros"


def _chosen(
    model: nn.Module, possible: dict[str, fx.Node], names: Sequence[str] | str, calls: dict[str, list[Any]]
) -> set[str]:
    """Return the names of the convolutions to gate."""
    if not isinstance(names, str):
        for name in names:
            if name not in dict(model.named_modules()):
                known = name_some(list(possible), most=4)
                raise ValueError(f"layers={name!r} matches no module; convolutions that can be gated: {known}")
            if name not in possible:
                raise ValueError(
                    f"layers={name!r}: {type(model.get_submodule(name)).__name__} cannot be gated; give an nn.Conv2d "
                    "without groups that the forward calls once"
                )
        return set(names)
    found = {name for name in possible if calls[name][0].shape[1] >= _FEWEST}
    if not found:
        raise ValueError(
            f"layers='auto' finds no nn.Conv2d of {type(model).__name__} without groups and with at least {_FEWEST} "
            "output channels; name convolutions in layers"
        )
    return found


def _norm_after(model: nn.Module, node: fx.Node) -> fx.Node | None:
    """Return the batch norm that alone reads a convolution."""
    users = list(node.users)
    if len(users) == 1 and users[0].op == "call_module":
        norm = model.get_submodule(str(users[0].target))
        if type(norm) is nn.BatchNorm2d and norm.running_mean is not None:
            return users[0]
    return None


def _source(model: nn.Module, node: fx.Node, ends: dict[fx.Node, int]) -> int:
    """Return the number of the gated layer whose output a convolution alone reads, through layers that keep zeros."""
    before = node.args[0] if node.args else None
    while isinstance(before, fx.Node) and len(before.users) == 1:
        if before in ends:
            return ends[before]
        is_module = before.op == "call_module" and isinstance(model.get_submodule(str(before.target)), _KEEP_ZEROS)
        is_call = before.op == "call_function" and before.target in _KEEP_ZEROS_CALLS
        if not (is_module or is_call) or not before.args:
            break
        before = before.args[0]
    return -1
