"""Run a network as if inputs of its layers under a threshold were zero, by hooks; it saves no time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_dynprune.adaptive.activations.compat import pack_byte_rows, unpack_byte_rows
from lightning_dynprune.adaptive.activations.linear_layers import weight_rows

PRECISIONS = ("float32", "int8")


def is_live(inputs: Tensor, threshold: float) -> Tensor:
    r"""Return which inputs of a layer are computed with, bool.

    .. math:: \neg (|x| \le t)

    so that an input that is not a number is live, and the output is that of the dense layer: not a number.

    Args:
        inputs: of the layer.
        threshold: t, at least 0; 0 skips zeros only.

    Example:
        >>> is_live(torch.tensor([0.0, -0.5, 0.2, torch.nan]), 0.2).tolist()
        [False, True, False, True]
    """
    return ~(inputs.abs() <= threshold)


@contextmanager
def thresholded(
    model: nn.Module, thresholds: Mapping[str, float], precision: str = "float32"
) -> Iterator[dict[str, list[Tensor]]]:
    """Set inputs under a threshold to zero in each forward pass inside the ``with`` block.

    Args:
        model: the network.
        thresholds: of its layers, by name.
        precision: "int8" also rounds the rows of their weights to 8 bits, as they are stored then.

    Yields:
        For each layer the share of live inputs in every row, one tensor ``(rows,)`` a call.
    """
    densities: dict[str, list[Tensor]] = {name: [] for name in thresholds}

    def before(name: str, threshold: float) -> Any:
        def mask(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            (inputs,) = args or kwargs.values()
            live = is_live(inputs, threshold)
            densities[name].append(
                live.flatten(0, -2).double().mean(1) if live.dim() > 1 else live.double().mean()[None]
            )
            return (torch.where(live, inputs, 0.0),), {}

        return mask

    def after(layer: nn.Module) -> Any:
        rounded = unpack_byte_rows(pack_byte_rows(weight_rows(layer).contiguous())).t()

        def replace(module: nn.Module, args: tuple[Any, ...], _kwargs: dict[str, Any], _output: Tensor) -> Tensor:
            return F.linear(args[0], rounded, getattr(module, "bias", None))

        return replace

    hooks = []
    try:
        for name, threshold in thresholds.items():
            layer = model.get_submodule(name)
            hooks.append(layer.register_forward_pre_hook(before(name, threshold), with_kwargs=True))
            if precision == "int8":
                hooks.append(layer.register_forward_hook(after(layer), with_kwargs=True))
        yield densities
    finally:
        for hook in hooks:
            hook.remove()


def of_samples(rows: list[Tensor], count: int) -> Tensor:
    """Return the mean over the rows of each sample, float64 ``(count,)``.

    Where the number of samples does not divide that of the rows, it is the mean over all rows.

    Args:
        rows: a value of each row, one tensor a call, samples first.
        count: number of samples.
    """
    each = [
        values.reshape(count, -1).mean(1) if count and len(values) % count == 0 else values.mean().expand(count)
        for values in rows
    ]
    return torch.stack(each).mean(0) if each else torch.ones(count, dtype=torch.float64)
