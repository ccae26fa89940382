"""Take units out of a model's tensors, with a way back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

from lightning_dynprune.coupling.group import Group
from lightning_dynprune.coupling.layers import holds_tensors, is_channelwise
from lightning_dynprune.masks import select_along


class Narrowing:
    """Changes tensors and attributes of a model; :meth:`undo` puts back what was there before the first change.

    Parameters and buffers stay the same objects, only their ``data`` is another; ``grad`` follows.

    Args:
        model: the network.
        trial: all changes will be undone before a gradient flows. Autograd's accumulators of gradients then stay what
            they are, and with them the hooks by which DDP waits for gradients.
    """

    def __init__(self, model: nn.Module, trial: bool = False) -> None:
        self.model = model
        self._trial = trial
        self.tensors: dict[str, Tensor] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        self._tensors: dict[str, tuple[Tensor, Tensor | None]] = {}
        self._attributes: dict[tuple[nn.Module, str], Any] = {}

    def set(self, name: str, data: Tensor, grad: Tensor | None = None) -> None:
        """Put other values, of any shape, into a parameter or buffer."""
        tensor = self.tensors[name]
        self._tensors.setdefault(name, (tensor.data, tensor.grad))
        self._put(tensor, data, grad)

    def set_attribute(self, module: nn.Module, attribute: str, value: Any) -> None:
        """Set an attribute of a module."""
        self._attributes.setdefault((module, attribute), getattr(module, attribute))
        setattr(module, attribute, value)

    def zero(self, groups: Sequence[Group], kept: Sequence[Tensor]) -> None:
        """Set the units that are not kept to zero in all that makes and reads them; ``kept`` is bool, ``(units,)``."""
        for name, dims in _gone(groups, kept).items():
            data = self.tensors[name].data.clone()
            for dim, positions in dims.items():
                data.index_fill_(dim, positions.to(data.device), 0)
            self.set(name, data, self.tensors[name].grad)

    def narrow(self, groups: Sequence[Group], kept: Sequence[Tensor]) -> dict[str, dict[int, Tensor]]:
        """Take the units that are not kept out of all tensors, and tell the modules.

        Returns:
            tensor name -> dimension -> the positions that stayed, int64.
        """
        stayed: dict[str, dict[int, Tensor]] = {}
        for name, dims in _gone(groups, kept).items():
            tensor = self.tensors[name]
            data, grad = tensor.data, tensor.grad
            stayed[name] = {}
            for dim, positions in dims.items():
                stays = torch.ones(data.shape[dim], dtype=torch.bool).index_fill_(0, positions, False)
                stayed[name][dim] = stays.nonzero().flatten()
                data = select_along(data, dim, stayed[name][dim])
                grad = None if grad is None else select_along(grad, dim, stayed[name][dim])
            self.set(name, data, grad)
        for group, keep in zip(groups, kept, strict=True):
            if group.count_attribute:
                owner, _, attribute = group.count_attribute.rpartition(".")
                self.set_attribute(self.model.get_submodule(owner), attribute, int(keep.sum()))
        self.update_widths()
        return stayed

    def update_widths(self) -> None:
        """Set what modules say of their widths (``in_channels``, ``num_features``, ...) to their tensors' shapes."""
        for module in self.model.modules():
            for attribute, value in layer_widths(module).items():
                if getattr(module, attribute) != value:
                    self.set_attribute(module, attribute, value)

    @contextmanager
    def matching_instance_norms(self) -> Iterator[None]:
        """Tell instance norms that hold no tensors how many channels reach them, while the model runs."""

        def tell(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            width = args[0].shape[1]
            if args[0].dim() > 2 and module.num_features != width:
                self.set_attribute(module, "num_features", width)

        bare = [m for m in self.model.modules() if isinstance(m, _InstanceNorm) and not holds_tensors(m)]
        handles = [module.register_forward_pre_hook(tell) for module in bare]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def undo(self) -> None:
        """Put all tensors, gradients and attributes back."""
        for name, (data, grad) in self._tensors.items():
            self._put(self.tensors[name], data, grad)
        for (module, attribute), value in self._attributes.items():
            setattr(module, attribute, value)
        self._tensors, self._attributes = {}, {}

    def _put(self, tensor: Tensor, data: Tensor, grad: Tensor | None) -> None:
        tensor.grad = None
        if data.shape != tensor.shape and tensor.requires_grad and not self._trial:
            # A graph of an earlier step may keep the accumulator of gradients alive, which knows the old shape;
            # autograd makes a new one where the type changes.
            tensor.data = torch.empty(0, dtype=torch.float16 if data.dtype != torch.float16 else torch.float32)
        tensor.data = data
        tensor.grad = grad


def layer_widths(module: nn.Module) -> Mapping[str, int]:
    """Return the attributes of a layer that its tensors' shapes decide, with what they decide."""
    if isinstance(module, nn.Linear):
        return {"out_features": module.weight.shape[0], "in_features": module.weight.shape[1]}
    if isinstance(module, _ConvNd):
        first, second = module.weight.shape[:2]
        if is_channelwise(module):
            return {"out_channels": first, "in_channels": first, "groups": first}
        first, second = (first, second * module.groups)
        return dict(zip(("in_channels", "out_channels") if module.transposed else ("out_channels", "in_channels"),
                        (first, second), strict=True))  # fmt: skip
    weight = getattr(module, "weight", None)
    if isinstance(module, _NormBase):
        held = weight if weight is not None else module.running_mean
        return {} if held is None else {"num_features": len(held)}
    if isinstance(module, nn.GroupNorm) and is_channelwise(module):
        return {} if weight is None else {"num_channels": len(module.weight), "num_groups": len(module.weight)}
    if isinstance(module, nn.PReLU) and is_channelwise(module):
        return {"num_parameters": len(module.weight)}
    return {}


def _gone(groups: Sequence[Group], kept: Sequence[Tensor]) -> dict[str, dict[int, Tensor]]:
    """Return tensor name -> dimension -> positions of the units that are not kept."""
    gone: dict[str, dict[int, list[Tensor]]] = {}
    for group, keep in zip(groups, kept, strict=True):
        if not keep.all():
            for axis in group.axes:
                gone.setdefault(axis.name, {}).setdefault(axis.dim, []).append(axis.index[~keep.cpu()].flatten())
    return {name: {dim: torch.cat(found) for dim, found in dims.items()} for name, dims in gone.items()}
