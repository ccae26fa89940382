"""The Linear and Conv1D layers of a network whose inputs can be skipped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from lightning_dynprune.adaptive.forward_cut import batch_of
from lightning_dynprune.base import call_model, name_some
from lightning_dynprune.targets import is_conv1d


@dataclass(frozen=True)
class LinearLayer:
    """A linear layer, and its work for one sample.

    Args:
        name: qualified name in the network.
        inputs: number of inputs, and so of rows of its weight.
        outputs: number of outputs.
        macs: multiply-adds of one sample; those of all positions and calls.
    """

    name: str
    inputs: int
    outputs: int
    macs: int


def weight_rows(layer: nn.Module) -> Tensor:
    """Return a view of a layer's weight with one row an input, ``(inputs, outputs)``.

    Args:
        layer: a Linear, or the Conv1D of transformers, which stores its weight so.
    """
    weight = layer.get_parameter("weight").detach()
    return weight if is_conv1d(layer) else weight.t()


def as_linear(layer: nn.Module) -> nn.Linear:
    """Return a Linear that computes what a Linear or Conv1D does; it shares the parameters."""
    rows = weight_rows(layer)
    linear = nn.Linear(rows.shape[0], rows.shape[1], bias=getattr(layer, "bias", None) is not None, device="meta")
    linear.weight = nn.Parameter(rows.t(), requires_grad=False)
    if linear.bias is not None:
        linear.bias = nn.Parameter(layer.get_parameter("bias").detach(), requires_grad=False)
    return linear.train(layer.training)


def find_layers(model: nn.Module, example: Any, layers: Sequence[str] | str) -> list[LinearLayer]:
    """Return the layers whose inputs can be skipped, in the order of their names.

    Args:
        model: the network, in eval mode.
        example: inputs of at least one sample.
        layers: qualified names or patterns with ``*``; "auto" for all that the forward calls.

    Raises:
        ValueError: nothing can be skipped, or an entry of ``layers`` matches nothing that can; the message says why.
    """
    rows = _rows_called(model, example)
    reasons = {
        name: _reason(module, rows.get(name, 0)) for name, module in model.named_modules() if _has_weight(module)
    }
    usable = [name for name, reason in reasons.items() if reason is None]
    if not isinstance(layers, str):
        chosen: list[str] = []
        for entry in layers:
            matched = [name for name in reasons if fnmatchcase(name, entry)]
            unusable = {name: reasons[name] for name in matched if name not in usable}
            if unusable and entry in unusable:
                raise ValueError(f"layers={entry!r}: this {unusable[entry]}")
            if not set(matched) & set(usable):
                raise ValueError(
                    f"layers={entry!r} matches none of the layers that can skip inputs: {name_some(usable)}"
                )
            chosen += [name for name in matched if name in usable]
        usable = [name for name in usable if name in chosen]
    if not usable:
        why = "; ".join(f"{name!r} {reason}" for name, reason in list(reasons.items())[:3])
        raise ValueError(
            f"layers={layers!r}: {type(model).__name__} has no Linear or Conv1D whose inputs can be skipped"
            + (f": {why}" if why else "")
        )
    count = batch_of(example)
    found = []
    for name in usable:
        inputs, outputs = weight_rows(model.get_submodule(name)).shape
        found.append(LinearLayer(name, inputs, outputs, rows[name] * inputs * outputs // count))
    return found


def _has_weight(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or is_conv1d(module)


def _reason(module: nn.Module, rows: int) -> str | None:
    """Return why a linear layer's inputs cannot be skipped; None where they can."""
    if isinstance(module, nn.Linear) and type(module) is not nn.Linear:
        return f"is a {type(module).__name__}, a subclass of Linear, which may compute something else"
    if not rows:
        return "is not called by the forward, or its weight is read without a call"
    dtype = module.get_parameter("weight").dtype
    return None if dtype == torch.float32 else f"has a weight of {dtype}; inputs are skipped in float32"


@torch.no_grad()
def _rows_called(model: nn.Module, example: Any) -> dict[str, int]:
    """Return the number of input rows of each linear layer in one forward pass."""
    rows: dict[str, int] = {}
    with _counted(model, rows):
        call_model(model, example)
    return rows


@contextmanager
def _counted(model: nn.Module, rows: dict[str, int]) -> Iterator[None]:
    """Count the rows of linear layers in their forwards, as torch's fused layers run otherwise with hooks."""
    layers = {
        name: module for name, module in model.named_modules() if _has_weight(module) and "forward" not in vars(module)
    }

    def counting(name: str, forward: Any) -> Any:
        def count(*args: Any, **kwargs: Any) -> Any:
            (inputs,) = args or kwargs.values()
            rows[name] = rows.get(name, 0) + inputs.numel() // max(1, inputs.shape[-1])
            return forward(*args, **kwargs)

        return count

    for name, layer in layers.items():
        layer.forward = counting(name, layer.forward)
    try:
        yield
    finally:
        for layer in layers.values():
            del layer.forward
