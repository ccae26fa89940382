"""Read the outputs of named modules in a forward pass, or end the pass at one of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lightning_dynprune.base import call_model, checksum, map_tensors, name_some, nested_tensors


class ForwardEnded(BaseException):
    """Raised by a hook to end a forward pass at a module; it never leaves this room.

    It is no ``Exception``, so that a model's own ``except Exception`` does not catch it.
    """


@contextmanager
def captured(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Yield a mapping that each forward pass inside the ``with`` block fills with the outputs of named modules.

    Args:
        model: the network.
        names: qualified names of its modules.
    """
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            # A layer that works in place may change the output afterwards.
            found[name] = output.clone()

        return hook

    hooks = [model.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


class Truncated(nn.Module):
    """Runs a model up to the end of one module, and returns that module's output.

    Args:
        model: the network.
        name: qualified name of the module.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
        >>> Truncated(net, "1")(torch.ones(5, 2)).shape
        torch.Size([5, 3])
    """

    def __init__(self, model: nn.Module, name: str) -> None:
        super().__init__()
        self.model, self.name = model, name

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the module's output."""
        ended: list[Tensor] = []

        def end(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            ended.append(output)
            raise ForwardEnded

        hook = self.model.get_submodule(self.name).register_forward_hook(end)
        try:
            self.model(*args, **kwargs)
        except ForwardEnded:
            return ended[0]
        finally:
            hook.remove()
        raise ValueError(f"after={self.name!r}: the forward does not call this module")


@torch.no_grad()
def called_modules(model: nn.Module, example: Any) -> dict[str, list[Any]]:
    """Return the outputs of every call of each named module in one forward pass, in the order of the first call's end.

    Args:
        model: the network, in eval mode.
        example: inputs.
    """
    outputs: dict[str, list[Any]] = {}

    def keep(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            outputs.setdefault(name, []).append(output.detach() if isinstance(output, Tensor) else output)

        return hook

    hooks = [module.register_forward_hook(keep(name)) for name, module in model.named_modules() if name]
    try:
        call_model(model, example)
    finally:
        for hook in hooks:
            hook.remove()
    return outputs


def batch_of(inputs: Any) -> int:
    """Return the number of samples of inputs, the first dimension of all their tensors.

    Raises:
        ValueError: there is no tensor, or the first dimensions differ.
    """
    tensors = nested_tensors(inputs)
    sizes = {tensor.shape[0] if tensor.dim() else None for tensor in tensors}
    if len(sizes) != 1 or None in sizes:
        shapes = [tuple(tensor.shape) for tensor in tensors]
        raise ValueError(f"inputs: the first dimension of all tensors must be the batch; their shapes are {shapes}")
    return next(size for size in sizes if size is not None)


def part_of(inputs: Any, part: Any) -> Any:
    """Return some samples of inputs.

    Args:
        inputs: a tensor or containers of tensors, batch dimension first.
        part: a slice, or a tensor of indices.
    """
    return map_tensors(lambda tensor: tensor[part], inputs)


def finite_inputs(inputs: Any) -> Tensor:
    """Return 0 for each input whose numbers are all finite, and NaN for any other, float32 ``(n,)``."""
    tensors = nested_tensors(inputs)
    sums = [0 * tensor.flatten(1).sum(1) for tensor in tensors if tensor.is_floating_point() and tensor.dim() > 1]
    if not sums:
        return torch.zeros(len(tensors[0]), device=tensors[0].device)
    total = sums[0]
    for more in sums[1:]:
        total = total + more
    return total


@torch.no_grad()
def check_stateless(model: nn.Module, example: Any) -> None:
    """Raise if a forward pass changes what the model holds, or depends on how often it ran.

    A model that keeps keys and values between calls would mix up inputs that leave the batch early.

    Args:
        model: the network, in eval mode.
        example: inputs.

    Raises:
        ValueError: naming the module and the attribute or buffer.
    """
    before = _held(model)
    first = call_model(model, example)
    after = _held(model)
    changed = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
    if changed:
        raise ValueError(
            f"the model keeps state between calls: a forward in eval mode changes {name_some(changed)}. Inputs that "
            "leave the batch early would read each other's; turn the cache off (such as use_cache=False)"
        )
    second = call_model(model, example)
    pairs = zip(nested_tensors(first), nested_tensors(second), strict=True)
    if not all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in pairs):
        raise ValueError("the model's outputs differ from call to call in eval mode, so no input has a fixed path")


def _held(model: nn.Module) -> dict[str, Any]:
    """Return the tensors that each module holds in its attributes, by identity and checksum."""
    held: dict[str, Any] = {}
    for name, module in model.named_modules():
        for attribute, value in vars(module).items():
            if attribute in ("_parameters", "_modules"):
                continue
            entries = value if attribute == "_buffers" else {attribute: value}
            for key, entry in entries.items():
                if tensors := _plain_tensors(entry):
                    held[f"{name}.{key}".lstrip(".")] = [(id(tensor), checksum([tensor])) for tensor in tensors]
    return held


def _plain_tensors(value: Any) -> list[Tensor]:
    """Return the tensors in tuples, lists and mappings; other objects may refer to each other in circles."""
    if isinstance(value, Tensor):
        return [value]
    entries = value.values() if isinstance(value, dict) else value if isinstance(value, (tuple, list)) else ()
    return [tensor for entry in entries for tensor in _plain_tensors(entry)]
