"""Rules of torch's operations: given the labels of their arguments, the labels of their results."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from lightning_dynprune.coupling.tracing.labels import Labels, combined, constant, labels_of, united
from lightning_dynprune.coupling.tracing.units import FIXED, ChannelUnits


@dataclass(frozen=True)
class Operation:
    """One call of an operation.

    Attributes:
        name: of the operation, such as ``"add"``.
        entrywise: whether torch declares it entrywise.
        arguments: by name.
        inputs: the labelled tensors among the arguments: shape and labels, in their order.
        first: labels of the first argument, if it is a labelled tensor.
        shapes: of the tensors that it returns.
        origin: describes the operation and the module that calls it, for messages.
        rerun: runs the operation with another tensor in place of its first argument.
        label_of: returns the labels of a tensor, None for constants.
    """

    name: str
    entrywise: bool
    arguments: dict[str, Any]
    inputs: list[tuple[tuple[int, ...], Labels]]
    first: tuple[tuple[int, ...], Labels] | None
    shapes: list[tuple[int, ...]]
    origin: str
    rerun: Callable[[Tensor], Sequence[Tensor]]
    label_of: Callable[[Tensor], Labels | None]


Rule: TypeAlias = "Callable[[ChannelUnits, Operation], list[Labels] | None]"

# Entrywise operations that torch does not declare as such.
_ENTRYWISE = frozenset((
    "_prelu_kernel", "_to_copy", "bernoulli_", "copy_", "contiguous", "detach", "alias", "lift_fresh", "dropout",
    "feature_dropout", "native_dropout", "fill", "fill_", "hardswish", "hardswish_", "gelu_", "log_sigmoid_forward",
    "normal_", "rsub", "to", "tril", "triu", "uniform_", "zero_", "empty_like", "full_like", "ones_like",
    "rand_like", "randn_like", "zeros_like", "celu_", "elu_", "leaky_relu_", "rrelu_with_noise", "view_as_real",
))  # fmt: skip
# Operations that only rearrange the entries along dimensions, as views without a copy.
_VIEWS = frozenset((
    "diagonal", "movedim", "permute", "squeeze", "swapaxes", "t", "transpose", "unsqueeze",
))  # fmt: skip
_MIXING_ALONG = frozenset((
    "_log_softmax", "_safe_softmax", "_softmax", "all", "amax", "amin", "aminmax", "any", "argmax", "argmin",
    "argsort", "count_nonzero", "cummax", "cummin", "cumprod", "cumsum", "linalg_vector_norm", "log_softmax",
    "logcumsumexp", "logsumexp", "max", "mean", "median", "min", "mode", "nanmedian", "nansum", "norm", "prod",
    "softmax", "sort", "std", "std_mean", "sum", "topk", "var", "var_mean",
))  # fmt: skip
_SPATIAL = re.compile(r".*(pool|upsample|pad|unpool|grid_sampler_?).*?([123])d.*")


def resulting_labels(units: ChannelUnits, operation: Operation) -> list[Labels]:
    """Return the labels of the tensors that an operation returns; some of its tensors are labelled.

    An operation that is not known here mixes all channels that it is given.
    """
    for rule in _RULES:
        found = rule(units, operation)
        if found is not None:
            return found
    mixed = units.mixture([labels.numbers for _, labels in operation.inputs], operation.origin)
    return [constant(mixed, shape) for shape in operation.shapes]


def _entrywise(units: ChannelUnits, operation: Operation) -> list[Labels] | None:
    in_place_restride = operation.name == "as_strided_" and operation.first and operation.shapes == [operation.first[0]]
    if not operation.entrywise and operation.name not in _ENTRYWISE and not in_place_restride:
        return None
    dims = max(len(shape) for shape in operation.shapes)
    given = [labels for _, labels in operation.inputs]
    result = combined(units, given, dims, operation.origin)
    return [result if len(shape) == dims else constant(FIXED, shape) for shape in operation.shapes]


def _gate(units: ChannelUnits, operation: Operation) -> list[Labels] | None:
    """GLU multiplies the first half of the channels by a function of the second."""
    if operation.name != "glu" or operation.first is None:
        return None
    shape, labels = operation.first
    dim, numbers = operation.arguments["dim"] % len(shape), labels.numbers
    if numbers.shape[dim] > 1:
        _tie_parts(units, numbers, dim, numbers.shape[dim] // 2, operation.origin)
        numbers = numbers.narrow(dim, 0, numbers.shape[dim] // 2)
    return [labels_of(numbers, operation.shapes[0])]


def _view(units: ChannelUnits, operation: Operation) -> list[Labels] | None:
    if operation.name not in _VIEWS or operation.first is None:
        return None
    shape, labels = operation.first
    moved = operation.rerun(labels.over(shape))
    return [labels_of(numbers, shape) for numbers, shape in zip(moved, operation.shapes, strict=True)]


def _expand(units: ChannelUnits, operation: Operation) -> list[Labels] | None:
    if operation.name != "expand" or operation.first is None:
        return None
    labels, (shape,) = operation.first[1], operation.shapes
    missing = len(shape) - labels.numbers.dim()
    return [Labels(labels.numbers[(None,) * missing], (False,) * missing + labels.sized)]


def _cut(units: ChannelUnits, operation: Operation) -> list[Labels] | None:
    """Parts of a tensor along one dimension: they keep their channels if the parts are equal, and lose alike."""
    if operation.name not in ("slice", "split", "split_with_sizes", "chunk", "narrow", "select", "unbind"):
        return None
    if operation.first is None:
        return None
    shape, labels = operation.first
    dim, numbers = operation.arguments["dim"] % len(shape), labels.numbers
    if numbers.shape[dim] > 1:
        if operation.name in ("select", "unbind"):
            units.retain(numbers, f"{operation.origin} takes single channels by their position")
        elif any(part[dim] != shape[dim] for part in operation.shapes):
            sizes = {part[dim] for part in operation.shapes}
            size, start = max(sizes), (operation.arguments.get("start") or 0) % shape[dim]
            is_equal = len(sizes) == 1 and size and not shape[dim] % size and not start % size
            if not is_equal or operation.arguments.get("step", 1) != 1:
                units.retain(numbers, f"{operation.origin} takes some of them by their position")
            else:
                _tie_parts(units, numbers, dim, size, operation.origin)
    parts = operation.rerun(labels.over(shape))
    return [labels_of(part, shape) for part, shape in zip(parts, operation.shapes, strict=True)]


def _concatenation(units: ChannelUnits, operation: Operation) -> list[Labels] | None:
    if operation.name not in ("cat", "stack"):
        return None
    (shape,) = operation.shapes
    dim = operation.arguments["dim"] % len(shape)
    tensors = [tensor for tensor in operation.arguments["tensors"] if tensor.dim() > 1 or tensor.numel()]
    parts = []
    for tensor in tensors:
        labels = operation.label_of(tensor) or constant(FIXED, tensor.shape)
        numbers = labels.numbers
        size = tensor.shape[dim] if operation.name == "cat" else 1
        numbers = numbers.unsqueeze(dim) if operation.name == "stack" else numbers
        parts.append(numbers.expand(*[size if d == dim else -1 for d in range(numbers.dim())]))
    sizes = [max(part.shape[d] for part in parts) for d in range(len(shape))]
    parts = [part.expand(*[part.shape[d] if d == dim else size for d, size in enumerate(sizes)]) for part in parts]
    return [labels_of(torch.cat(parts, dim), shape)]


def _reshape(units: ChannelUnits, operation: Operation) -> list[Labels] | None:
    """Other dimensions for the same entries; where channels are split, equal parts of them are removed together."""
    if operation.name not in ("view", "_unsafe_view", "reshape", "_reshape_alias", "flatten", "unflatten"):
        return None
    if operation.first is None:
        return None
    (before, labels), (after,) = operation.first, operation.shapes
    front = _equal_start(before, after)
    back = min(_equal_start(before[::-1], after[::-1]), min(len(before), len(after)) - front)
    # Dimensions that do not change keep their size 1 where the numbers do not differ.
    edges = labels.numbers.shape
    head, tail = list(edges[:front]), list(edges[len(before) - back :]) if back else []
    numbers = labels.numbers.expand(*head, *before[front : len(before) - back], *tail)
    numbers = numbers.reshape(*head, *after[front : len(after) - back], *tail)
    result = labels_of(numbers, after)
    split = [dim for dim in result.varies() if front <= dim < len(after) - back]
    if len(split) > len([dim for dim in labels.varies() if front <= dim < len(before) - back]):
        for dim in split[:-1]:
            _unite_rows(units, result.numbers.movedim(dim, 0), operation.origin)
        # The parts are the same now, so that one of them may be picked.
        result = labels_of(units.find(result.numbers), after)
    return [result]


def _shuffle(units: ChannelUnits, operation: Operation) -> list[Labels] | None:
    """Channel and pixel shuffles."""
    if operation.name not in ("channel_shuffle", "native_channel_shuffle", "pixel_shuffle", "pixel_unshuffle"):
        return None
    if operation.first is None:
        return None
    shape, labels = operation.first
    if "channel" in operation.name and labels.numbers.shape[1] > 1:
        _tie_parts(units, labels.numbers, 1, shape[1] // operation.arguments["groups"], operation.origin)
    moved = operation.rerun(labels.over(shape).contiguous())
    return [labels_of(numbers, shape) for numbers, shape in zip(moved, operation.shapes, strict=True)]


def _copies(units: ChannelUnits, operation: Operation) -> list[Labels] | None:
    """Copies and picks of entries by position; along the channels they cannot follow a removal, except repeats."""
    if operation.name not in ("repeat", "flip", "roll", "index_select", "index", "repeat_interleave", "tile"):
        return None
    if operation.first is None or len(operation.inputs) != 1:
        return None
    shape, labels = operation.first
    arguments = operation.arguments
    if operation.name in ("index_select", "roll", "repeat_interleave"):
        dims = arguments.get("dims", arguments.get("dim"))
        dims = dims if isinstance(dims, (list, tuple)) else [dims]
        moved_dims = range(len(shape)) if not dims or None in dims else [dim % len(shape) for dim in dims]
    elif operation.name == "index":
        moved_dims = [dim for dim, index in enumerate(arguments["indices"]) if index is not None]
    else:
        moved_dims = []
    if any(labels.numbers.shape[dim] > 1 for dim in moved_dims):
        units.retain(labels.numbers, f"{operation.origin} takes them by their position")
    moved = operation.rerun(labels.over(shape))
    return [labels_of(numbers, shape) for numbers, shape in zip(moved, operation.shapes, strict=True)]


def _along(units: ChannelUnits, operation: Operation) -> list[Labels] | None:
    """Sums, maxima, softmaxes along dimensions: they mix the channels if these lie along such a dimension."""
    if operation.name not in _MIXING_ALONG or operation.first is None or len(operation.inputs) != 1:
        return None
    shape, labels = operation.first
    given = operation.arguments.get("dim")
    dims = list(given) if isinstance(given, (list, tuple)) else [] if given is None else [given]
    dims = [dim % len(shape) for dim in dims] if dims and shape else list(range(len(shape)))
    if any(labels.numbers.shape[dim] > 1 for dim in dims):
        return None
    found = []
    for after in operation.shapes:
        numbers = labels.numbers
        if len(after) < len(shape):
            kept = [size for dim, size in enumerate(numbers.shape) if dim not in dims]
            numbers = numbers.reshape(kept)
        found.append(labels_of(numbers, after))
    return found


def _spatial(units: ChannelUnits, operation: Operation) -> list[Labels] | None:
    """Pooling, resizing and padding over the last dimensions."""
    match = _SPATIAL.fullmatch(operation.name)
    if operation.first is None or not match:
        return None
    shape, labels = operation.first
    dim = len(shape) - int(match[2]) - 1
    if dim < 0:
        return None
    numbers = labels.numbers
    if any(size > 1 for size in numbers.shape[dim + 1 :]):
        every = numbers.movedim(dim, 0).flatten(1)
        numbers = united(units, every, 0, operation.origin).view(*[-1 if d == dim else 1 for d in range(len(shape))])
    return [labels_of(numbers, after) for after in operation.shapes]


def _pad(units: ChannelUnits, operation: Operation) -> list[Labels] | None:
    """Padding by a constant; channels that are added so stay."""
    if operation.name != "constant_pad_nd" or operation.first is None:
        return None
    shape, labels = operation.first
    numbers, pads = labels.numbers, operation.arguments["pad"]
    for position in range(len(pads) // 2):
        dim, (before, after) = len(shape) - 1 - position, pads[2 * position : 2 * position + 2]
        if numbers.shape[dim] > 1 and (before or after):
            sizes = list(numbers.shape)
            ends = [numbers.new_full([*sizes[:dim], max(0, n), *sizes[dim + 1 :]], FIXED) for n in (before, after)]
            kept = numbers.narrow(dim, max(0, -before), sizes[dim] + min(0, before) + min(0, after))
            if min(before, after) < 0:
                units.retain(numbers, f"{operation.origin} takes some of them by their position")
            numbers = torch.cat([ends[0], kept, ends[1]], dim)
    return [labels_of(numbers, operation.shapes[0])]


def _tie_parts(units: ChannelUnits, numbers: Tensor, dim: int, size: int, origin: str) -> None:
    """Merge the channels that have the same position in each of the equal parts along a dimension."""
    rows = numbers.movedim(dim, 0)
    _unite_rows(units, rows.reshape(-1, size, *rows.shape[1:]), origin)


def _unite_rows(units: ChannelUnits, rows: Tensor, origin: str) -> None:
    united(units, rows.flatten(1), 1, origin)


def _equal_start(a: Sequence[int], b: Sequence[int]) -> int:
    """Return how many leading numbers two sequences share."""
    count = 0
    while count < min(len(a), len(b)) and a[count] == b[count]:
        count += 1
    return count


_RULES: tuple[Rule, ...] = (
    _entrywise, _gate, _view, _expand, _cut, _concatenation, _reshape, _shuffle, _copies, _along, _spatial, _pad,
)  # fmt: skip
