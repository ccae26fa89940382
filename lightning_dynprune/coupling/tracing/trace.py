"""Follow the channels of all layers through one forward pass."""

from __future__ import annotations

import weakref
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lightning_dynprune.base import nested_tensors
from lightning_dynprune.coupling.group import CouplingError
from lightning_dynprune.coupling.isolation import run_example
from lightning_dynprune.coupling.layers import (
    channel_dim,
    is_channelwise,
    is_grouped,
    mixes_channels,
    num_output_channels,
)
from lightning_dynprune.coupling.tracing.compat import (
    OperationListener,
    changes_arguments,
    is_entrywise,
    named_arguments,
    operation_name,
    without_listeners,
)
from lightning_dynprune.coupling.tracing.labels import Labels, constant, labels_of, meet, united
from lightning_dynprune.coupling.tracing.rules import Operation, resulting_labels
from lightning_dynprune.coupling.tracing.units import FIXED, ChannelUnits

# Operations on channels after which following a model is given up; each takes about a tenth of a millisecond.
MAX_OPERATIONS = 50_000
# Operations that replace all values of their first argument.
_REPLACING = frozenset(["copy_", "fill_", "zero_", "normal_", "uniform_", "bernoulli_", "random_"])
_LABELS = "_dynprune_labels"


class Trace:
    """The channels that every layer of a model writes, carries and reads, from one forward pass on an example.

    Every output channel of a layer has a number, and every tensor of the forward pass has labels that say which channel
    each entry belongs to. Torch's basic operations pass labels on by the rules of :mod:`.rules`; layers that mix
    channels begin with new ones.

    Args:
        model: the network, in eval mode.
        example_input: as for :func:`coupled_groups`.
        closed: names of modules that are not followed: their inputs and outputs keep their width.
        writers: names of the layers whose channels are of interest; None for all.

    Raises:
        CouplingError: the model does not run on the example, or runs more operations than can be followed.

    Attributes:
        units: which channels can only be removed together.
        writes: layer -> the numbers of its output channels; grouped convolutions among them.
        ran: names of the modules that the forward pass ran.
        reads: layer that mixes channels -> the number that each input channel reads.
        carries: layer that works channel by channel -> the number of each channel.
        outputs: tensors that the model returned.
    """

    def __init__(
        self, model: nn.Module, example_input: Any, closed: Collection[str] = (), writers: Collection[str] | None = None
    ) -> None:
        self.writes: dict[str, Tensor] = {}
        # Modules that are taken as one operation.
        self._whole = set(closed)
        count = 0
        for name, module in model.named_modules():
            if is_channelwise(module):
                self._whole.add(name)
            if _writes(module):
                self._whole.add(name)
                size = num_output_channels(module)
                self.writes[name] = torch.arange(count, count + size)
                count += size
        self.units = ChannelUnits(count)
        for name, numbers in self.writes.items():
            if writers is not None and name not in writers:
                self.writes[name] = torch.full_like(
                    numbers, self.units.mixture([], f"the outputs of {name!r}", mixes=False)
                )
        self.reads: dict[str, Tensor] = {}
        self.carries: dict[str, Tensor] = {}
        self.outputs: list[Tensor] = []
        self.closed, self.ran = frozenset(closed), set[str]()
        self._running, self._paused, self._count = [("", model)], 0, 0
        # While modules that are taken as one operation run, no single operation is followed.
        self._unfollowed = ExitStack()
        # Inputs, parameters and buffers, by their id: the tensor, what it is, and its labels once they are needed.
        self._fixed: dict[int, tuple[Tensor, str, Labels | None]] = {}
        # A forward pass may keep tensors with labels of an earlier trace, so labels carry the mark of theirs.
        self._mark, self._labelled = object(), list[weakref.ref[Tensor]]()
        self._run(model, example_input)

    def _run(self, model: nn.Module, example_input: Any) -> None:
        for tensor in nested_tensors(example_input):
            self._fix(tensor, "the model's inputs")
        for kind, tensors in (("parameter", model.named_parameters()), ("buffer", model.named_buffers())):
            for name, tensor in tensors:
                self._fix(tensor, f"the {kind} {name!r}")
        try:
            with self._hooked(model), OperationListener(self._follow), self._unfollowed:
                outputs = run_example(model, example_input)
            for tensor in nested_tensors(outputs):
                self.outputs.append(tensor.clone())
                if (labels := self.labels_of(tensor)) is not None:
                    self.units.retain(labels.numbers, "they are the model's outputs")
        finally:
            for reference in self._labelled:
                if (left := reference()) is not None and hasattr(left, _LABELS):
                    delattr(left, _LABELS)

    def labels_of(self, tensor: Tensor) -> Labels | None:
        """Return the labels of a tensor of the forward pass, None for a constant."""
        if (fixed := self._fixed.get(id(tensor))) is not None:
            known = fixed[2] or constant(self.units.mixture([], fixed[1], mixes=False), tensor.shape)
            self._fixed[id(tensor)] = (tensor, fixed[1], known)
            return known
        mark, labels = getattr(tensor, _LABELS, (None, None))
        return labels if mark is self._mark else None

    def _fix(self, tensor: Tensor, origin: str) -> None:
        self._fixed[id(tensor)] = (tensor, origin, None)

    def _put(self, tensor: Tensor, labels: Labels | None) -> None:
        if (fixed := self._fixed.get(id(tensor))) is not None:
            self._fixed[id(tensor)] = (tensor, fixed[1], labels)
        else:
            setattr(tensor, _LABELS, (self._mark, labels))
            self._labelled.append(weakref.ref(tensor))

    @property
    def _where(self) -> str:
        name, module = self._running[-1]
        return f"{type(module).__name__} {name!r}" if name else type(module).__name__

    @contextmanager
    def _hooked(self, model: nn.Module) -> Iterator[None]:
        handles = []
        for name, module in model.named_modules():
            handles.append(module.register_forward_pre_hook(partial(self._enter, name), with_kwargs=True))
            handles.append(module.register_forward_hook(partial(self._leave, name), with_kwargs=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._running.append((name, module))
        if name in self._whole:
            self._paused += 1
            if self._paused == 1:
                self._unfollowed.enter_context(without_listeners())

    def _leave(self, name: str, module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        self._running.pop()
        self.ran.add(name)
        if name not in self._whole:
            return
        self._paused -= 1
        if self._paused:
            return
        given, found = nested_tensors(args) + nested_tensors(kwargs), nested_tensors(output)
        if name in self.closed or len(given) != 1 or len(found) != 1:
            self._close(name, given, found)
        elif (labels := self.labels_of(given[0])) is not None or _writes(module):
            labels = labels or constant(FIXED, given[0].shape)
            self._put(found[0], self._through(name, module, labels, given[0], found[0]))
        self._unfollowed.close()

    def _close(self, name: str, given: list[Tensor], found: list[Tensor]) -> None:
        origin = f"the module {name!r}, which is excluded" if name in self.closed else f"the module {name!r}"
        for tensor in given:
            if (labels := self.labels_of(tensor)) is not None:
                self.units.retain(labels.numbers, f"they are read by {origin}")
        fixed = self.units.mixture([], origin, mixes=False)
        for tensor in found:
            self._put(tensor, constant(fixed, tensor.shape))

    def _through(self, name: str, module: nn.Module, labels: Labels, given: Tensor, found: Tensor) -> Labels:
        """Return the labels of a layer's output."""
        origin = f"{type(module).__name__} {name!r}"
        dim = channel_dim(module) % given.dim()
        numbers = labels.over([given.shape[d] if d == dim else n for d, n in enumerate(labels.numbers.shape)])
        columns = united(self.units, numbers, dim, origin)
        known = self.carries if is_channelwise(module) and not is_grouped(module) else self.reads
        meet(self.units, columns, known.setdefault(name, columns), origin)
        if mixes_channels(module):
            # Numbers of mixtures tell that all channels of the mixture are needed as they are.
            self.units.retain(columns[columns < 0], "")
        if not _writes(module):
            return labels_of(_along(columns, dim, given.dim()), found.shape)
        rows = self.writes[name]
        if is_grouped(module):
            groups = int(module.groups)  # type: ignore[arg-type]
            blocks = torch.cat([columns.view(groups, -1), rows.view(groups, -1)], dim=1)
            united(self.units, blocks, 0, origin)
        return labels_of(_along(rows, channel_dim(module) % found.dim(), found.dim()), found.shape)

    def _follow(
        self, func: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any
    ) -> None:
        """Label the result of an operation."""
        known = [(t, labels) for t in _tensors((args, kwargs)) if (labels := self.labels_of(t)) is not None]
        name, is_mutable = operation_name(func), changes_arguments(func)
        if name in _REPLACING:
            known = [(t, labels) for t, labels in known if t is not args[0]]
            self._put(args[0], None)
        found = _tensors(result)
        if not known or not found:
            return
        self._count += any(bool((labels.numbers >= 0).any()) for _, labels in known)
        if self._count > MAX_OPERATIONS:
            raise CouplingError(
                f"{self._where} runs operation {MAX_OPERATIONS + 1:,} on channels, which is more than are followed; a "
                "loop over time steps may be the cause; exclude the parameters of that module, or shorten the example"
            )
        first = next(((tuple(t.shape), labels) for t, labels in known if args and t is args[0]), None)
        operation = Operation(
            name,
            is_entrywise(func),
            named_arguments(func, args, kwargs),
            [(tuple(t.shape), labels) for t, labels in known],
            first,
            [tuple(t.shape) for t in found],
            f"{self._where} ({name})",
            lambda numbers: _tensors(func(numbers, *args[1:], **kwargs)),
            self.labels_of,
        )
        for tensor, labels in zip(found, resulting_labels(self.units, operation), strict=True):
            if is_mutable and tensor is args[0] and _is_part(tensor):
                # The tensor that this is a view of keeps its labels, so none of them may be removed.
                for numbers in (labels.numbers, *(given.numbers for _, given in known)):
                    self.units.retain(numbers, f"{operation.origin} writes into a part of a tensor")
            self._put(tensor, labels)


def _writes(module: nn.Module) -> bool:
    return mixes_channels(module) or is_grouped(module)


def _is_part(tensor: Tensor) -> bool:
    return tensor.untyped_storage().nbytes() != tensor.numel() * tensor.element_size()


def _along(numbers: Tensor, dim: int, dims: int) -> Tensor:
    """Return a vector as a tensor that lies along one of several dimensions."""
    return numbers.view([-1 if d == dim else 1 for d in range(dims)])


def _tensors(value: Any) -> list[Tensor]:
    """Return the tensors in arguments or results of an operation."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        return []
    return [tensor for item in value for tensor in _tensors(item)]
