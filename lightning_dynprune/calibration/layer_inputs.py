"""The inputs of linear layers and convolutions, as rows of the matrix that their weights are multiplied with."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from lightning_dynprune.calibration.compat import padding_sizes
from lightning_dynprune.targets import Target, is_conv1d

RowConsumer: TypeAlias = Callable[[int, Tensor], None]
Convolution: TypeAlias = "nn.Conv1d | nn.Conv2d | nn.Conv3d"

# An input of a convolution appears in as many rows as its kernel has entries, so rows are copied in pieces of this many
# values: 64 MiB in float32.
_MAX_VALUES = 2**24


def input_rows(module: nn.Module, inputs: Tensor) -> Tensor:
    r"""Return the inputs of a module as rows that the matrix of its weight is multiplied with.

    .. math:: y = x\,W^\top

    With ``x`` the rows of a group and ``W`` the matrix of that group's weights, one row per output, ``y`` is the
    module's output without bias, one row per sample and output position.

    Args:
        module: a Linear, a Conv1D of transformers, or a Conv1d, Conv2d or Conv3d of any stride, padding, dilation and
            groups.
        inputs: the input of the module, with or without a batch dimension.

    Returns:
        ``(groups, n, columns)``, 1 group for a linear layer; float32, or float64 where the inputs are.

    Raises:
        TypeError: the module is of another type.

    Example:
        >>> conv = nn.Conv1d(1, 1, kernel_size=2)
        >>> input_rows(conv, torch.tensor([[[1.0, 2.0, 3.0]]])).tolist()
        [[[1.0, 2.0], [2.0, 3.0]]]
    """
    table, num_dims = _table(module, inputs)
    return _rows(table.flatten(0, num_dims - 1))


def row_pieces(module: nn.Module, inputs: Tensor, most: int = _MAX_VALUES) -> Iterator[Tensor]:
    """Yield :func:`input_rows` in pieces along ``n`` of at most ``most`` values, but at least one row.

    Args:
        module: as for :func:`input_rows`.
        inputs: as for :func:`input_rows`.
        most: largest number of values of a piece.

    Raises:
        TypeError: the module is neither a Linear nor a convolution.
    """
    table, num_dims = _table(module, inputs)
    shape = table.shape[:num_dims]
    step = max(1, most // max(1, math.prod(table.shape[num_dims:])))
    for start in range(0, math.prod(shape), step):
        stop = min(start + step, math.prod(shape))
        if num_dims == 1:
            yield _rows(table[start:stop])
            continue
        # Windows overlap, so that positions have no flat view and a slice of them is gathered.
        yield _rows(table[torch.unravel_index(torch.arange(start, stop, device=table.device), shape)])


class InputCapture:
    """Context manager that passes the inputs of targets to a function while a model runs.

    If several modules own a target, the function receives the inputs of all of them; a module that runs several times
    passes all its inputs. The function is called without gradients and outside autocast.

    Args:
        model: the network.
        targets: some of its targets.
        on_rows: called with the index of the target in ``targets`` and rows as returned by :func:`input_rows`, in
            pieces of at most 64 MiB in float32.

    Raises:
        ValueError: a target is not only the weight of Linear layers and convolutions.

    Example:
        >>> net = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
        >>> targets = [Target("0.weight", net[0].weight)]
        >>> with InputCapture(net, targets, lambda position, rows: print(position, rows.shape)):
        ...     _ = net(torch.ones(5, 3))
        0 torch.Size([1, 5, 3])
    """

    def __init__(self, model: nn.Module, targets: Sequence[Target], on_rows: RowConsumer) -> None:
        self.modules = _modules(model, targets)
        self.on_rows = on_rows
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> InputCapture:
        for module, position in self.modules.items():
            self._hooks.append(module.register_forward_pre_hook(self._hook(position), with_kwargs=True))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def _hook(self, position: int) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        def pass_on(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            (inputs,) = args or kwargs.values()  # these layers take one argument, whatever its name
            # Tensors that on_rows creates in inference mode could not be changed outside of it.
            with torch.inference_mode(False), torch.no_grad(), torch.autocast(inputs.device.type, enabled=False):
                for rows in row_pieces(module, inputs.detach()):
                    self.on_rows(position, rows)

        return pass_on


def _modules(model: nn.Module, targets: Sequence[Target]) -> dict[nn.Module, int]:
    """Return the modules that own targets, each with the index of its target."""
    positions = {target.parameter: position for position, target in enumerate(targets)}
    modules: dict[nn.Module, int] = {}
    unsupported: dict[str, str] = {}
    for module in model.modules():
        for local, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            if parameter not in positions:
                continue
            if local == "weight" and _has_known_inputs(module):
                modules[module] = positions[parameter]
            else:
                unsupported[targets[positions[parameter]].name] = f"the {local} of a {type(module).__name__}"
    missing = [target.name for position, target in enumerate(targets) if position not in modules.values()]
    unsupported |= {name: f"no parameter of {type(model).__name__}" for name in missing if name not in unsupported}
    if unsupported:
        raise ValueError(
            "layer inputs can be captured for weights of Linear, Conv1d, Conv2d, Conv3d and transformers' Conv1D only, "
            "and " + ", ".join(f"{name} is {what}" for name, what in unsupported.items()) + "; exclude it from targets"
        )
    return modules


def _has_known_inputs(module: nn.Module) -> bool:
    # MultiheadAttention reads the weight of its output projection and never calls it.
    is_called = not isinstance(module, NonDynamicallyQuantizableLinear)
    return is_called and (isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)) or is_conv1d(module))


def _table(module: nn.Module, inputs: Tensor) -> tuple[Tensor, int]:
    """Return a view ``(*positions, groups, *columns)`` of a module's inputs, and the number of position dimensions."""
    if isinstance(module, nn.Linear) or is_conv1d(module):
        return inputs.reshape(-1, 1, inputs.shape[-1]), 1
    if not isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        raise TypeError(f"rows are known of Linear, Conv1d, Conv2d and Conv3d, not of {type(module).__name__}")
    spatial = len(module.kernel_size)
    if inputs.dim() == spatial + 1:
        inputs = inputs.unsqueeze(0)
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    padded = F.pad(inputs, padding_sizes(module), mode=mode)
    windows = torch.unflatten(padded, 1, (module.groups, -1))
    for axis in range(spatial):
        size, stride, dilation = module.kernel_size[axis], module.stride[axis], module.dilation[axis]
        windows = windows.unfold(3 + axis, dilation * (size - 1) + 1, stride)[..., ::dilation]
    return windows.movedim((1, 2), (1 + spatial, 2 + spatial)), 1 + spatial


def _rows(table: Tensor) -> Tensor:
    """Return a table ``(n, groups, *columns)`` as floats ``(groups, n, columns)``."""
    return table.flatten(2).transpose(0, 1).to(torch.promote_types(table.dtype, torch.float32))
