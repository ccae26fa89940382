"""Remove units from a model's tensors, reversibly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lightning_dynprune.base import BATCH_NORMS, CONVOLUTIONS, INSTANCE_NORMS
from lightning_dynprune.coupling.group import Group
from lightning_dynprune.coupling.layers import holds_tensors, is_channelwise
from lightning_dynprune.coupling.multihead import SlimMultiheadAttention
from lightning_dynprune.masks import select_along
from lightning_dynprune.targets import is_conv1d

_STATISTICS = ("running_mean", "running_var")


class Narrowing:
    """Changes tensors and attributes of a model; :meth:`undo` restores what was there before the first change.

    Parameters and buffers remain the same objects: only their ``data`` and ``grad`` are replaced.

    Args:
        model: the network.
        trial: whether all changes will be undone before the next backward pass. Autograd's gradient accumulators are
            then not replaced, and neither are the hooks that DDP has registered on them.

    Attributes:
        tensors: all parameters and buffers of the model, by name.
    """

    def __init__(self, model: nn.Module, trial: bool = False) -> None:
        self.model = model
        self._trial = trial
        self.tensors: dict[str, Tensor] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        self._tensors: dict[str, tuple[Tensor, Tensor | None]] = {}
        self._attributes: dict[tuple[nn.Module, str], Any] = {}

    def set(self, name: str, data: Tensor, grad: Tensor | None = None) -> None:
        """Replace the values of a parameter or buffer; the new shape may differ."""
        tensor = self.tensors[name]
        self._tensors.setdefault(name, (tensor.data, tensor.grad))
        self._put(tensor, data, grad)

    def set_attribute(self, module: nn.Module, attribute: str, value: Any) -> None:
        """Set an attribute of a module."""
        self._attributes.setdefault((module, attribute), getattr(module, attribute))
        setattr(module, attribute, value)

    def zero(self, groups: Sequence[Group], kept: Sequence[Tensor]) -> bool:
        """Set the units that are not kept to zero in all tensors; ``kept`` is one bool tensor ``(units,)`` a group.

        Returns:
            Whether a tensor other than the running statistics of a norm held something else than zeros there.
        """
        has_changed = False
        for name, dims in _removed(groups, kept).items():
            data = self.tensors[name].data
            places = {dim: positions.to(data.device) for dim, positions in dims.items()}
            if not any(data.index_select(dim, positions).any() for dim, positions in places.items()):
                continue
            has_changed |= not name.endswith(_STATISTICS)
            data = data.clone()
            for dim, positions in places.items():
                data.index_fill_(dim, positions, 0)
            self.set(name, data, self.tensors[name].grad)
        return has_changed

    def narrow(self, groups: Sequence[Group], kept: Sequence[Tensor]) -> dict[str, dict[int, Tensor]]:
        """Remove the units that are not kept from all tensors, and update the widths of the modules.

        Returns:
            tensor name -> dimension -> the positions kept, int64.
        """
        positions_kept: dict[str, dict[int, Tensor]] = {}
        for name, dims in _removed(groups, kept).items():
            tensor = self.tensors[name]
            data, grad = tensor.data, tensor.grad
            positions_kept[name] = {}
            for dim, positions in sorted(dims.items()):  # whole rows first, which are the fastest to copy
                stays = torch.ones(data.shape[dim], dtype=torch.bool).index_fill_(0, positions, False)
                positions_kept[name][dim] = stays.nonzero().flatten()
                data = select_along(data, dim, positions_kept[name][dim])
                grad = None if grad is None else select_along(grad, dim, positions_kept[name][dim])
            self.set(name, data, grad)
        for group, keep in zip(groups, kept, strict=True):
            for name in group.width_attributes:
                owner, _, attribute = name.rpartition(".")
                module = self.model.get_submodule(owner)
                self.set_attribute(module, attribute, getattr(module, attribute) * int(keep.sum()) // group.units)
        self.update_widths()
        return positions_kept

    def update_widths(self) -> None:
        """Set the width attributes of all modules (``in_channels``, ``num_features``, ...) to their tensors' shapes."""
        for module in self.model.modules():
            for attribute, value in layer_widths(module).items():
                if getattr(module, attribute) != value:
                    self.set_attribute(module, attribute, value)
            self._fit_attention(module)

    def _fit_attention(self, module: nn.Module) -> None:
        """Let torch's attention, and encoders that hold it, compute with the number of heads that its tensors have."""
        if type(module) is nn.MultiheadAttention and module.out_proj.weight.shape[1] != module.embed_dim:
            self.set_attribute(module, "__class__", SlimMultiheadAttention)
        if isinstance(module, SlimMultiheadAttention):
            heads = module.out_proj.weight.shape[1] // module.head_dim
            if module.num_heads != heads:
                self.set_attribute(module, "num_heads", heads)
        slim = isinstance(module, nn.TransformerEncoder) and any(
            layer.self_attn.out_proj.weight.shape[1] != layer.self_attn.embed_dim
            for layer in module.layers
            if isinstance(layer, nn.TransformerEncoderLayer)
        )
        if slim and module.use_nested_tensor:  # which only the fused kernels take
            self.set_attribute(module, "use_nested_tensor", False)

    @contextmanager
    def matching_instance_norms(self) -> Iterator[None]:
        """Set ``num_features`` of instance norms without tensors to the width of their inputs while the model runs."""

        def set_width(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            width = args[0].shape[1]
            if args[0].dim() > 2 and module.num_features != width:
                self.set_attribute(module, "num_features", width)

        bare = [m for m in self.model.modules() if isinstance(m, INSTANCE_NORMS) and not holds_tensors(m)]
        handles = [module.register_forward_pre_hook(set_width) for module in bare]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def replaced(self) -> Iterator[tuple[str, nn.Module]]:
        """Yield the modules that were given another class, with their names."""
        replaced = {module for module, attribute in self._attributes if attribute == "__class__"}
        yield from ((name, module) for name, module in self.model.named_modules() if replaced and module in replaced)

    def undo(self) -> None:
        """Restore all tensors, gradients and attributes."""
        for name, (data, grad) in self._tensors.items():
            self._put(self.tensors[name], data, grad)
        for (module, attribute), value in self._attributes.items():
            setattr(module, attribute, value)
        self._tensors, self._attributes = {}, {}

    def _put(self, tensor: Tensor, data: Tensor, grad: Tensor | None) -> None:
        tensor.grad = None
        if data.shape != tensor.shape and tensor.requires_grad and not self._trial:
            # The graph of an earlier step may keep the gradient accumulator alive, which holds the old shape. Autograd
            # creates a new one when the dtype changes.
            tensor.data = torch.empty(0, dtype=torch.float16 if data.dtype != torch.float16 else torch.float32)
        tensor.data = data
        tensor.grad = grad


def layer_widths(module: nn.Module) -> Mapping[str, int]:
    """Return the attributes of a layer that follow from its tensors' shapes, with their values."""
    if isinstance(module, nn.Linear):
        return {"out_features": module.weight.shape[0], "in_features": module.weight.shape[1]}
    if is_conv1d(module):
        rows: Tensor = getattr(module, "weight")  # noqa: B009 - the type is known by its name alone
        return {"nx": rows.shape[0], "nf": rows.shape[1]}
    if isinstance(module, CONVOLUTIONS):
        first, second = module.weight.shape[:2]
        if module.groups > 1:
            # Whole groups are removed, so each of those that stay has as many channels as before.
            whole = module.in_channels if module.transposed else module.out_channels
            groups, rest = divmod(first * module.groups, whole)
            if rest:
                size = whole // module.groups
                raise ValueError(f"{first} channels of a grouped convolution are no whole groups of {size}")
            names = ("in_channels", "out_channels") if module.transposed else ("out_channels", "in_channels")
            return {names[0]: first, names[1]: second * groups, "groups": groups}
        return dict(zip(("in_channels", "out_channels") if module.transposed else ("out_channels", "in_channels"),
                        (first, second), strict=True))  # fmt: skip
    if isinstance(module, nn.Embedding):
        return {"embedding_dim": module.weight.shape[1]}
    weight = getattr(module, "weight", None)
    if isinstance(module, (*BATCH_NORMS, *INSTANCE_NORMS)):
        held = weight if weight is not None else module.running_mean
        return {} if held is None else {"num_features": len(held)}
    if isinstance(module, nn.GroupNorm) and is_channelwise(module):
        return {} if weight is None else {"num_channels": len(module.weight), "num_groups": len(module.weight)}
    if isinstance(module, nn.PReLU) and is_channelwise(module):
        return {"num_parameters": len(module.weight)}
    return {}


def _removed(groups: Sequence[Group], kept: Sequence[Tensor]) -> dict[str, dict[int, Tensor]]:
    """Return tensor name -> dimension -> positions of the units that are not kept."""
    removed: dict[str, dict[int, list[Tensor]]] = {}
    for group, keep in zip(groups, kept, strict=True):
        if not keep.all():
            for axis in group.axes:
                removed.setdefault(axis.name, {}).setdefault(axis.dim, []).append(axis.index[~keep.cpu()].flatten())
    return {name: {dim: torch.cat(found) for dim, found in dims.items()} for name, dims in removed.items()}
