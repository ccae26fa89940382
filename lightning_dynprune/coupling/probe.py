"""Find the layers that read each channel, by changing channels and comparing the inputs of all layers.

Hooks replace the outputs of every layer that mixes channels by noise, so that a change is visible only between the
layer that writes a channel and the layers that read it. Units are numbered over all groups. For each bit of that number
there are two passes: one changes the units that have the bit, the other those that do not. An input channel that reads
one unit changes in exactly one of the two passes, which gives the bit of the unit's number; an input channel that mixes
two units changes in both passes of some bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from lightning_dynprune.base import nested_tensors
from lightning_dynprune.coupling.isolation import run_example
from lightning_dynprune.coupling.layers import channel_dim, holds_tensors, is_channelwise, mixes_channels

# Given unit numbers, returns which of these units to change.
UnitSelector: TypeAlias = "Callable[[Tensor], Tensor]"

NOT_READ = -1
MIXED = -2
OUTPUT = "the model's outputs"


@dataclass
class ChannelReads:
    """Which units each layer reads.

    Attributes:
        units: layer name -> for each input channel the unit that it reads, ``NOT_READ`` or ``MIXED``; int64.
        touched: for each group the names of all modules whose inputs depend on it; ``OUTPUT`` for the model's outputs.
    """

    units: dict[str, Tensor] = field(default_factory=dict)
    touched: list[set[str]] = field(default_factory=list)


@torch.no_grad()
def probe_reads(
    model: nn.Module, example_input: Any, writers: Sequence[Sequence[str]], sizes: Sequence[int]
) -> ChannelReads:
    """Return which layers read the channels of groups; the model must be in eval mode.

    Args:
        model: the network.
        example_input: as for :func:`coupled_groups`.
        writers: for each group the names of the layers that write it.
        sizes: for each group its number of units; units are numbered consecutively over all groups.
    """
    starts = [sum(sizes[:position]) for position in range(len(sizes))]
    ranges = {
        name: (start, start + size) for names, start, size in zip(writers, starts, sizes, strict=True) for name in names
    }
    passes = _Passes(model, example_input, ranges)
    base = passes.run(_within(0, 0))
    reads = ChannelReads()
    for start, size in zip(starts, sizes, strict=True):
        seen = passes.run(_within(start, start + size))
        reads.touched.append({name for name, changed in _differences(base, seen) if changed.any()})
    unit_numbers: dict[str, Tensor] = {}
    for bit in range(max(1, (sum(sizes) - 1).bit_length())):
        zeros = dict(_differences(base, passes.run(_having(bit, 0))))
        for name, one in _differences(base, passes.run(_having(bit, 1))):
            so_far = unit_numbers.get(name, torch.zeros(one.shape, dtype=torch.int64))
            special = torch.where(one & zeros[name], MIXED, torch.where(one | zeros[name], 0, NOT_READ))
            unit_numbers[name] = torch.where(so_far < 0, so_far, so_far + (one.long() << bit))
            unit_numbers[name] = torch.minimum(unit_numbers[name], special.where(special < 0, unit_numbers[name]))
    for name, calls in unit_numbers.items():
        reads.units[name] = calls[0].masked_fill((calls != calls[0]).any(dim=0), MIXED)
    return reads


def _within(start: int, stop: int) -> UnitSelector:
    return lambda number: (number >= start) & (number < stop)


def _having(bit: int, value: int) -> UnitSelector:
    return lambda number: (number >> bit) & 1 == value


def _differences(base: dict[str, Tensor], seen: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield for each layer which of its input channels changed: bool ``(calls, channels)``."""
    for name, before in base.items():
        after = seen.get(name)
        if after is None or after.shape != before.shape:
            yield name, torch.ones(before.shape, dtype=torch.bool)
        else:
            yield name, (after != before) & ~(after.isnan() & before.isnan())


class _Passes:
    """Runs a model whose layers return noise, and records a fingerprint of every layer's inputs."""

    def __init__(self, model: nn.Module, example_input: Any, ranges: dict[str, tuple[int, int]]) -> None:
        self.model, self.example_input, self.ranges = model, example_input, ranges
        self.seen: dict[str, list[Tensor]] = {}
        self.selected: UnitSelector = _within(0, 0)

    def run(self, selected: UnitSelector) -> dict[str, Tensor]:
        """Return fingerprints of each layer's inputs, ``(calls, channels)``, with the ``selected`` units changed."""
        self.seen, self.selected = {}, selected
        with self._hooked():
            outputs = run_example(self.model, self.example_input)
        for tensor in nested_tensors(outputs):
            self._record(OUTPUT, _fingerprint(tensor.reshape(-1), None))
        return {name: torch.stack(calls) for name, calls in self.seen.items()}

    @contextmanager
    def _hooked(self) -> Iterator[None]:
        handles = []
        for seed, (name, module) in enumerate(self.model.named_modules()):
            if not holds_tensors(module) and not is_channelwise(module):
                continue
            handles.append(module.register_forward_pre_hook(partial(self._record_inputs, name), with_kwargs=True))
            if mixes_channels(module):
                handles.append(module.register_forward_hook(partial(self._return_noise, name, seed)))
            elif is_channelwise(module):
                handles.append(module.register_forward_hook(_return_means, with_kwargs=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _record_inputs(self, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = nested_tensors(args) + nested_tensors(kwargs)
        if (mixes_channels(module) or is_channelwise(module)) and len(given) == 1:
            self._record(name, _fingerprint(given[0], channel_dim(module)))
            return
        for tensor in given:
            self._record(name, _fingerprint(tensor.reshape(-1), None))

    def _record(self, name: str, fingerprint: Tensor) -> None:
        self.seen.setdefault(name, []).append(fingerprint)

    def _return_noise(self, name: str, seed: int, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        # Noise within (0, 1), where common activations pass changes on; changed and unchanged values do not overlap.
        noise = torch.rand(output.shape, generator=generator) * 0.3
        changed = torch.zeros(output.shape[channel_dim(module)], dtype=torch.bool)
        if name in self.ranges:
            changed = self.selected(torch.arange(*self.ranges[name]))
        shape = [1] * output.dim()
        shape[channel_dim(module)] = -1
        noise = noise + torch.where(changed, 0.6, 0.1).view(shape)
        return noise.to(output.device, output.dtype)


def _return_means(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
    """Return each input channel's mean in place of the output of a norm or a depthwise convolution."""
    given = (nested_tensors(args) + nested_tensors(kwargs))[0]
    dim = channel_dim(module) % given.dim()
    others = list(range(dim + 1, given.dim()))
    mean = given.mean(dim=others, keepdim=True) if others else given
    return mean.expand_as(output).clone()


def _fingerprint(tensor: Tensor, dim: int | None) -> Tensor:
    """Return one number per channel that changes with any of the channel's values."""
    rows = tensor.reshape(1, -1) if dim is None else tensor.movedim(dim, 0).flatten(1)
    weights = 1 + torch.arange(rows.shape[1], dtype=torch.float64) * 0.6180339887498949 % 1
    return rows.detach().cpu().double() @ weights
