"""What the weights of a Linear or a convolution are multiplied with, as rows of a matrix."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from lightning_dynprune.targets import Target

Take: TypeAlias = Callable[[int, Tensor], None]
Convolution: TypeAlias = "nn.Conv1d | nn.Conv2d | nn.Conv3d"

# An input of a convolution appears in as many rows as its kernel has entries, so rows are copied out in pieces of this
# many values: 64 MiB in float32.
_PIECE = 2**24


def input_rows(module: nn.Module, inputs: Tensor) -> Tensor:
    r"""Return what each row of ``module.weight.flatten(1)`` is multiplied with.

    .. math:: y = x\,W^\top

    With ``x`` the rows of a group and ``W`` the flat weights of that group, ``y`` is the module's output without bias,
    one row for each sample and place.

    Args:
        module: a Linear, or a Conv1d, Conv2d or Conv3d of any stride, padding, dilation and groups.
        inputs: what the module is called with, with or without a batch dimension.

    Returns:
        ``(groups, n, columns)``, 1 group for a Linear; float32, or float64 where the inputs are.

    Raises:
        TypeError: the module is neither.

    Example:
        >>> conv = nn.Conv1d(1, 1, kernel_size=2)
        >>> input_rows(conv, torch.tensor([[[1.0, 2.0, 3.0]]])).tolist()
        [[[1.0, 2.0], [2.0, 3.0]]]
    """
    table, places = _table(module, inputs)
    return _rows(table.flatten(0, places - 1))


def row_pieces(module: nn.Module, inputs: Tensor, most: int = _PIECE) -> Iterator[Tensor]:
    """Yield :func:`input_rows` in pieces along ``n``, each of at most ``most`` values where one row has no more.

    Args:
        module: as for :func:`input_rows`.
        inputs: likewise.
        most: values of a piece.

    Raises:
        TypeError: the module is neither a Linear nor a convolution.
    """
    table, places = _table(module, inputs)
    shape = table.shape[:places]
    step = max(1, most // max(1, math.prod(table.shape[places:])))
    for start in range(0, math.prod(shape), step):
        stop = min(start + step, math.prod(shape))
        if places == 1:
            yield _rows(table[start:stop])
            continue
        # Windows overlap, so that their places have no flat view: a slice of them is gathered.
        yield _rows(table[torch.unravel_index(torch.arange(start, stop, device=table.device), shape)])


class InputCapture:
    """Hands over the inputs of targets while a model runs.

    A target that several modules own gets the inputs of all of them, and a module that runs several times hands over
    all its inputs. What does not run hands over nothing. ``take`` is called without gradients and outside autocast.

    Args:
        model: the network.
        targets: some of its targets.
        take: called with the position in ``targets`` and rows as :func:`input_rows` gives them, in pieces of at most
            64 MiB in float32.

    Raises:
        ValueError: a target is not the weight of a Linear or a convolution, or not of these alone.

    Example:
        >>> net = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
        >>> targets = [Target("0.weight", net[0].weight)]
        >>> with InputCapture(net, targets, lambda position, rows: print(position, rows.shape)):
        ...     _ = net(torch.ones(5, 3))
        0 torch.Size([1, 5, 3])
    """

    def __init__(self, model: nn.Module, targets: Sequence[Target], take: Take) -> None:
        self.modules = _modules(model, targets)
        self.take = take
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
        def hand_over(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            inputs: Tensor = args[0] if args else kwargs["input"]
            # A tensor that `take` makes in inference mode could not be written to outside of it.
            with torch.inference_mode(False), torch.no_grad(), torch.autocast(inputs.device.type, enabled=False):
                for rows in row_pieces(module, inputs.detach()):
                    self.take(position, rows)

        return hand_over


def _modules(model: nn.Module, targets: Sequence[Target]) -> dict[nn.Module, int]:
    """Return the modules that own targets, and the position of the target that each owns."""
    positions = {target.parameter: position for position, target in enumerate(targets)}
    modules: dict[nn.Module, int] = {}
    refused: dict[str, str] = {}
    for module in model.modules():
        for local, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            if parameter not in positions:
                continue
            if local == "weight" and _hands_over(module):
                modules[module] = positions[parameter]
            else:
                refused[targets[positions[parameter]].name] = f"the {local} of a {type(module).__name__}"
    missing = [target.name for position, target in enumerate(targets) if position not in modules.values()]
    refused |= {name: f"no parameter of {type(model).__name__}" for name in missing if name not in refused}
    if refused:
        raise ValueError(
            "activations are known of weights of Linear, Conv1d, Conv2d and Conv3d only, and "
            + ", ".join(f"{name} is {what}" for name, what in refused.items())
            + "; exclude it from targets"
        )
    return modules


def _hands_over(module: nn.Module) -> bool:
    # MultiheadAttention reads the weight of its output projection and never calls it.
    is_called = not isinstance(module, NonDynamicallyQuantizableLinear)
    return isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)) and is_called


def _table(module: nn.Module, inputs: Tensor) -> tuple[Tensor, int]:
    """Return a view ``(*places, groups, *columns)`` of what a module reads, and how many dimensions the places have."""
    if isinstance(module, nn.Linear):
        return inputs.reshape(-1, 1, inputs.shape[-1]), 1
    if not isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        raise TypeError(f"rows are known of Linear, Conv1d, Conv2d and Conv3d, not of {type(module).__name__}")
    spatial = len(module.kernel_size)
    if inputs.dim() == spatial + 1:
        inputs = inputs.unsqueeze(0)
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    padded = F.pad(inputs, module._reversed_padding_repeated_twice, mode=mode)
    windows = torch.unflatten(padded, 1, (module.groups, -1))
    for axis in range(spatial):
        size, stride, dilation = module.kernel_size[axis], module.stride[axis], module.dilation[axis]
        windows = windows.unfold(3 + axis, dilation * (size - 1) + 1, stride)[..., ::dilation]
    return windows.movedim((1, 2), (1 + spatial, 2 + spatial)), 1 + spatial


def _rows(table: Tensor) -> Tensor:
    """Turn ``(n, groups, *columns)`` into float ``(groups, n, columns)``."""
    return table.flatten(2).transpose(0, 1).to(torch.promote_types(table.dtype, torch.float32))
