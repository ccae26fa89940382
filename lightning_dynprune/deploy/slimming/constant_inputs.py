"""Find input channels of layers that do not depend on the model's inputs, by running the model on noise."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lightning_dynprune.base import map_tensors, nested_tensors
from lightning_dynprune.coupling import Axis, Group, channel_dim, isolated, mixes_channels, row_dim, run_example

# Number of noise values after which a channel with nonzero weights is accepted as constant.
_NUM_VALUES = 64
# Runs start at different places in one array of noise, which is longer by this number than what a layer needs.
_NUM_PLACES = 1 << 16
_NUM_SIZES = 1 << 14
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class ConstantInputs:
    """Find the input channels of each layer whose value does not depend on the model's inputs.

    The model runs with noise in place of all outputs whose row of weights is not zero; an output whose row is zero
    equals its bias. A channel with one value everywhere and in every run is a constant. The noise is of mixed signs and
    sizes. While a channel with nonzero weights still looks constant, runs with large and small noise of either sign
    and more runs of mixed noise follow, until at least 64 values have been tried for it, because an activation that is
    off for one value can be on for another.

    Layers of torch's own types are not computed in these runs, as their outputs are replaced.

    Args:
        model: the network; it is run in eval mode, and its buffers and modes are restored.
        example_input: as for ``coupled_groups``.
        groups: the channels of interest.
    """

    def __init__(self, model: nn.Module, example_input: Any, groups: Sequence[Group]) -> None:
        self._model, self._groups = model, groups
        self._low: dict[str, Tensor] = {}
        self._high: dict[str, Tensor] = {}
        self._values: dict[nn.Module, int] = {}
        self._alive: dict[nn.Module, Tensor] = {}
        self._noise = Noise()
        modules = dict(model.named_modules())
        self._writers = [list(_writers(modules, group)) for group in groups]
        self._measure(example_input)

    def refresh(self, example_input: Any, dead: Sequence[Tensor]) -> None:
        """Find the constants again if rows of weights became zero that belong to no dead unit.

        Zeroing units that do not contribute changes constants in no other way: their own outputs were constants, and
        what reads them read zeros or has absorbed them.

        Args:
            example_input: as before.
            dead: for each group the units that were set to zero, bool ``(units,)``.
        """
        expected = {module: alive.clone() for module, alive in self._alive.items()}
        for writers, gone in zip(self._writers, dead, strict=True):
            for axis, module in writers:
                if module in expected:
                    expected[module][axis.index[gone].flatten().to(expected[module].device)] = False
        now = {module: _rows_alive(module) for module in self._alive}
        self._alive = now
        if any((alive & ~now[module]).any() for module, alive in expected.items()):
            self._low, self._high = {}, {}
            self._measure(example_input)

    def _measure(self, example_input: Any) -> None:
        with isolated(self._model), self._replaced():
            self._run(example_input, None)
            # A layer behind a pooling has seen a single value of each channel, however many went into it: so no channel
            # has seen enough yet.
            suspects = self._suspects(0, {number: self._written(number) for number in range(len(self._groups))})
            runs = 1
            if suspects:
                self._run(example_input, None)
                runs += 1
                suspects = self._suspects(runs, suspects)
            if suspects:
                for level in (1e4, -1e4, 1.0, -1.0):
                    self._run(example_input, level)
            while suspects := self._suspects(runs, suspects):
                self._run(example_input, None)
                runs += 1

    def of(self, name: str) -> Tensor:
        """Return the constant value of each input channel of a layer, NaN where there is none: float64, on the CPU."""
        low, high = self._low[name].double().cpu(), self._high[name].double().cpu()
        return torch.where(low == high, low, torch.nan)

    def _run(self, example_input: Any, level: float | None) -> None:
        self._noise.level = level
        run_example(self._model, map_tensors(self._noise.added_to, example_input))

    @contextmanager
    def _replaced(self) -> Iterator[None]:
        """Record the inputs of all layers that mix channels, and replace their outputs."""
        handles, faked = [], []
        for name, module in self._model.named_modules():
            if mixes_channels(module):
                handles.append(module.register_forward_pre_hook(partial(self._record_input, name), with_kwargs=True))
                if _has_known_shape(module) and "forward" not in vars(module):
                    faked.append(module)
                    module.forward = partial(self._fake, module)
                else:
                    handles.append(module.register_forward_hook(self._replace_output))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            for module in faked:
                del module.forward

    def _suspects(self, runs: int, written: dict[int, Tensor]) -> dict[int, Tensor]:
        """Return those of some groups with channels that look constant, though their weights are not zero.

        Args:
            runs: number of runs so far with noise of mixed signs and sizes.
            written: number of a group -> its units with nonzero weights that may be suspects.

        Returns:
            Number of a group -> its suspects: bool ``(units,)``. Without groups that have seen enough values.
        """
        found = {}
        for number, units in written.items():
            values = min((self._values[module] for _, module in self._writers[number]), default=_NUM_VALUES)
            if runs * values >= _NUM_VALUES:
                continue
            seen = torch.zeros_like(units)
            for axis in readers(self._groups[number]):
                seen |= self.of(axis.name.rpartition(".")[0])[axis.index].isfinite().any(dim=1)
            if (units & seen).any():
                found[number] = units & seen
        return found

    def _written(self, number: int) -> Tensor:
        """Return the units of a group that have nonzero weights: bool ``(units,)``."""
        written = torch.zeros(self._groups[number].units, dtype=torch.bool)
        for axis, _ in self._writers[number]:
            written |= ~units_are_zero(self._model.get_parameter(axis.name), axis)
        return written

    def _record_input(self, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs = (nested_tensors(args) + nested_tensors(kwargs))[0].detach()
        channels = channel_dim(module) % inputs.dim()
        others = [dim for dim in range(inputs.dim()) if dim != channels]
        low, high = (inputs.amin(others), inputs.amax(others)) if others else (inputs, inputs)
        if name in self._low:
            low, high = torch.minimum(low, self._low[name]), torch.maximum(high, self._high[name])
        self._low[name], self._high[name] = low, high

    def _fake(self, module: Any, inputs: Tensor) -> Tensor:
        """Return noise in place of a layer's outputs."""
        return self._noise_like(module, _output_shape(module, inputs), inputs)

    def _replace_output(self, module: Any, args: Any, output: Tensor) -> Tensor:
        return self._noise_like(module, output.shape, output)

    def _noise_like(self, module: Any, shape: Sequence[int], like: Tensor) -> Tensor:
        if module not in self._alive:
            self._alive[module] = _rows_alive(module)
        alive = self._alive[module]
        noise = self._noise.of_shape(shape, like)
        self._values[module] = noise.numel() // len(alive)
        along = [1] * noise.dim()
        along[channel_dim(module)] = -1
        bias = noise.new_zeros(()) if module.bias is None else module.bias.detach().to(noise.dtype).view(along)
        return torch.where(alive.view(along), noise, bias)


class Noise:
    """Random values of both signs, in sizes from 0.01 to 10,000 or around one level.

    Attributes:
        level: about which all values lie, from half to one and a half of it; None for all sizes.
    """

    def __init__(self) -> None:
        self.level: float | None = None
        self._generator = torch.Generator().manual_seed(0)
        size = torch.rand(_NUM_SIZES, generator=self._generator)
        self._sizes = 10 ** (6 * size - 2) * (2 * torch.randint(2, size.shape, generator=self._generator) - 1)
        # Values of mixed signs and sizes, and values about one, drawn once for each kind of tensor.
        self._drawn: dict[tuple[torch.device, torch.dtype, bool], Tensor] = {}

    def of_shape(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """Return noise of a shape, on the device and of the dtype of another tensor; not to be changed in place."""
        count = math.prod(shape)
        key = (like.device, like.dtype, self.level is None)
        if key not in self._drawn or len(self._drawn[key]) < count + _NUM_PLACES:
            self._drawn[key] = self._draw(count + _NUM_PLACES).to(like.device, like.dtype)
        drawn = self._drawn[key]
        start = int(torch.randint(len(drawn) - count + 1, (1,), generator=self._generator))
        noise = drawn[start : start + count].view(tuple(shape))
        return noise if self.level is None else self.level * noise

    def _draw(self, count: int) -> Tensor:
        """Return values of mixed signs and sizes or, if there is a level, from half to one and a half."""
        if self.level is not None:
            return 0.5 + torch.rand(count, generator=self._generator)
        return self._sizes[torch.randint(_NUM_SIZES, (count,), generator=self._generator)]

    def added_to(self, tensor: Tensor) -> Tensor:
        """Return a floating-point tensor with normal noise added; others as they are."""
        if not tensor.is_floating_point():
            return tensor
        return tensor + torch.randn(tensor.shape, generator=self._generator).to(tensor)


def _writers(modules: Mapping[str, nn.Module], group: Group) -> Iterator[tuple[Axis, nn.Module]]:
    """Yield the weights of layers that mix channels which write the units of a group, with their layers."""
    for axis in group.axes:
        layer, _, local = axis.name.rpartition(".")
        if axis.writes and local == "weight" and mixes_channels(modules[layer]):
            yield axis, modules[layer]


def readers(group: Group) -> list[Axis]:
    """Return the axes along which layers read the units of a group."""
    return [axis for axis in group.axes if not axis.writes]


def units_are_zero(tensor: Tensor, axis: Axis) -> Tensor:
    """Return whether all of a unit's entries in a tensor are zero: bool ``(units,)``, on the CPU."""
    others = [dim for dim in range(tensor.dim()) if dim != axis.dim]
    nonzero = tensor.detach() != 0
    zero = ~(nonzero.any(dim=others) if others else nonzero)
    return zero.cpu()[axis.index].all(dim=1)


def _rows_alive(module: Any) -> Tensor:
    """Return whether a layer's output channels have a weight that is not zero."""
    rows: Tensor = (module.weight.detach() != 0).movedim(row_dim(module), 0).flatten(1)
    return rows.any(dim=1)


def _has_known_shape(module: nn.Module) -> bool:
    """Return whether a layer's output shape follows from its settings: exactly torch's own Linear or convolution."""
    return type(module) is nn.Linear or type(module) in _CONVOLUTIONS


def _output_shape(module: Any, inputs: Tensor) -> list[int]:
    if isinstance(module, nn.Linear):
        return [*inputs.shape[:-1], module.out_features]
    dims = len(module.kernel_size)
    sizes = []
    for number, size in enumerate(inputs.shape[-dims:]):
        reach = module.dilation[number] * (module.kernel_size[number] - 1)
        padded = {"same": reach, "valid": 0}.get(module.padding) if isinstance(module.padding, str) else None
        padded = 2 * module.padding[number] if padded is None else padded
        sizes.append((size + padded - reach - 1) // module.stride[number] + 1)
    return [*inputs.shape[: -dims - 1], module.out_channels, *sizes]
