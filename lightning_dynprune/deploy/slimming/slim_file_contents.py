"""Validate the contents of a slim model's file against the model that it is loaded into."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

from torch import Size, Tensor, nn

from lightning_dynprune.base import is_whole, parse_json
from lightning_dynprune.coupling import (
    CHANNELWISE_TENSORS,
    EXPERT_ATTRIBUTES,
    HEAD_ATTRIBUTES,
    Group,
    Projections,
    attention_heads,
    attention_projections,
    column_dim,
    expert_channels,
    holds_tensors,
    is_channelwise,
    is_grouped,
    mixes_channels,
    num_output_channels,
)
from lightning_dynprune.deploy.compat import InstanceNorm

FORMAT = "lightning-dynprune slim"
VERSION = "1"
# Bytes of the attributes; a thousand attention modules with long names take a tenth.
_MAX_BYTES = 2**20


def width_attributes(model: nn.Module) -> dict[str, int]:
    """Return widths that no tensor's shape shows: heads, hidden channels of experts, channels of bare norms."""
    found = {}
    for name, module in model.named_modules():
        is_bare_norm = isinstance(module, InstanceNorm) and not holds_tensors(module)
        for local in ("num_features",) if is_bare_norm else (*HEAD_ATTRIBUTES, *EXPERT_ATTRIBUTES):
            value = getattr(module, local, None)
            if is_whole(value, low=1):
                found[f"{name}.{local}".lstrip(".")] = int(value)
    return found


def state_tensors(model: nn.Module) -> list[tuple[list[str], Tensor]]:
    """Return the tensors of a state dict with all their names; a tied tensor appears once.

    Raises:
        ValueError: an entry is not a parameter or buffer of that name.
    """
    held = {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }
    names: dict[Tensor, list[str]] = {}
    for name in model.state_dict(keep_vars=True):
        if name not in held:
            raise ValueError(f"state dict: {name!r} is not a parameter or buffer of that name, so it cannot be saved")
        names.setdefault(held[name], []).append(name)
    return [(shared, tensor) for tensor, shared in names.items()]


def to_metadata(model: nn.Module) -> dict[str, str]:
    """Return the metadata of a slim model's file."""
    text = json.dumps(width_attributes(model), separators=(",", ":"))
    return {"format": FORMAT, "version": VERSION, "attributes": text}


def from_metadata(metadata: Mapping[str, str], model: nn.Module) -> dict[str, int]:
    """Return the attributes in a file's metadata: name -> value.

    Raises:
        ValueError: the metadata are those of another kind of file or damaged, or name an attribute that slimming does
            not change.
    """
    if metadata.get("format") != FORMAT:
        raise ValueError(f"format {metadata.get('format')!r} is not {FORMAT!r}; load reads what save wrote")
    if metadata.get("version") != VERSION:
        raise ValueError(f"version {metadata.get('version')!r} is unknown; this release reads version {VERSION!r}")
    text = metadata.get("attributes", "")
    if len(text) > _MAX_BYTES:
        raise ValueError(f"attributes take {len(text)} bytes; at most {_MAX_BYTES} are accepted")
    try:
        attributes = parse_json(text)
    except ValueError as error:
        raise ValueError(f"attributes are not JSON: {error}") from error
    if not isinstance(attributes, dict):
        raise ValueError(f"attributes are a {type(attributes).__name__}, not a mapping from names")
    known = width_attributes(model)
    for name, value in attributes.items():
        if name not in known:
            raise ValueError(f"attribute {name[:200]!r} is not a number of heads or channels of {type(model).__name__}")
        if not is_whole(value, 1, known[name]):
            raise ValueError(f"attribute {name!r}: {str(value)[:200]} is not accepted; give 1 to {known[name]}")
    return attributes


def match_tensors(model: nn.Module, shapes: Mapping[str, Sequence[int]]) -> dict[str, str]:
    """Match the model's tensors with those of a file: name in the model -> name in the file.

    Raises:
        ValueError: a tensor is missing, unexpected, wider than the model's, or narrower along a dimension without
            channels.
    """
    found: dict[str, str] = {}
    taken = set()
    free = _free_dims(model)
    for names, tensor in state_tensors(model):
        there = [name for name in names if name in shapes]
        if not there:
            raise ValueError(f"tensor {names[0]!r} of the model is missing")
        if len(there) > 1:
            raise ValueError(f"tensor {there[1]!r} is tied to {there[0]!r} in the model, and the file holds both")
        taken.update(there)
        for name in there:
            shape = list(shapes[name])
            if len(shape) != tensor.dim():
                raise ValueError(f"tensor {name!r} has shape {shape}, and the model's {list(tensor.shape)}")
            for dim, (size, whole) in enumerate(zip(shape, tensor.shape, strict=True)):
                if size > whole:
                    raise ValueError(
                        f"tensor {name!r} is wider than the model's: {shape}, not {list(tensor.shape)}; load takes the "
                        "model with its original widths"
                    )
                if size < whole and (size < 1 or dim not in free.get(names[0], ())):
                    raise ValueError(
                        f"tensor {name!r} has shape {shape}, and the model's {list(tensor.shape)}; slimming leaves its "
                        f"dimension {dim} as it is"
                    )
        found[names[0]] = there[0]
    if foreign := sorted(set(shapes) - taken):
        raise ValueError(f"tensor {foreign[0]!r} is none of {type(model).__name__}'s")
    return found


def validate_layers(
    model: nn.Module, heads: Sequence[Group], projections: Mapping[str, Projections], experts: Iterable[str]
) -> None:
    """Check that the tensors of each layer, attention module and module of experts agree in their widths.

    Args:
        model: the network.
        heads: of the network with its original widths.
        projections: of the attention modules of that network.
        experts: names of its modules of experts.

    Raises:
        ValueError: they do not.
    """
    for name, module in model.named_modules():
        if not mixes_channels(module) and not is_channelwise(module) and not is_grouped(module):
            continue
        has_rows = mixes_channels(module) or is_grouped(module)
        lengths = {}
        for local in CHANNELWISE_TENSORS:
            tensor = getattr(module, local, None)
            if tensor is not None:
                lengths[local] = num_output_channels(module) if has_rows and local == "weight" else len(tensor)
        if len(set(lengths.values())) > 1:
            lengths_text = ", ".join(f"{name}.{local} has {length}" for local, length in lengths.items())
            raise ValueError(f"channels do not agree: {lengths_text}")
    _validate_heads(model, heads, projections)
    if differing := sorted(set(experts) - set(expert_channels(model))):
        shapes = ", ".join(
            f"{name} {list(p.shape)}" for name, p in model.get_submodule(differing[0]).named_parameters(recurse=False)
        )
        raise ValueError(f"experts do not agree: the weights of {differing[0]!r} are {shapes}")


def _validate_heads(model: nn.Module, heads: Sequence[Group], projections: Mapping[str, Projections]) -> None:
    """Check that heads have their original size, and that what belongs to one group has as many heads."""
    now = attention_projections(model)
    for name, before in projections.items():
        weight = model.get_parameter(f"{before.output}.weight")
        width = weight.shape[column_dim(model.get_submodule(before.output))]
        count = now[name].heads if name in now else 0
        if width != count * before.size:
            raise ValueError(
                f"heads do not agree: '{before.output}.weight' reads {width} channels, which are not "
                f"{count or 'whole'} heads of {before.size}"
            )
    for group in heads:
        counts = {name: now[name].heads for name in group.modules}
        if len(set(counts.values())) > 1:
            raise ValueError(f"heads do not agree: {counts} have to have as many")
        for axis in group.axes:
            length = model.get_parameter(axis.name).shape[axis.dim]
            if len(group.modules) == 1 and isinstance(model.get_submodule(group.modules[0]), nn.MultiheadAttention):
                expected = axis.index.shape[1] * counts[group.modules[0]]
                if length != expected:
                    raise ValueError(f"heads do not agree: {axis.name!r} has {length} rows, and not {expected}")
            if axis.is_table and length != counts[group.modules[0]]:
                raise ValueError(
                    f"heads do not agree: {axis.name!r} has {length} columns for {counts[group.modules[0]]} heads"
                )


def validate_groups(
    model: nn.Module, groups: Sequence[Group], heads: Sequence[Group], before: Mapping[str, Size]
) -> None:
    """Check that tensors which share channels have lost the same number of them; heads are checked by their module.

    Raises:
        ValueError: they have not.
    """
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}

    def lost(name: str, dim: int) -> int:
        return before[name][dim] - tensors[name].shape[dim]

    expected: dict[tuple[str, int], float] = {}
    for group in groups:
        first = group.axes[0]
        units = lost(first.name, first.dim) / first.index.shape[1]
        for axis in group.axes:
            key = (axis.name, axis.dim)
            expected[key] = expected.get(key, 0.0) + units * axis.index.shape[1]
    of_heads = {(axis.name, axis.dim) for group in heads for axis in group.axes}
    for name, shape in before.items():
        for dim in range(len(shape)):
            if (name, dim) not in of_heads and lost(name, dim) != expected.get((name, dim), 0):
                raise ValueError(
                    f"tensor {name!r} has {tensors[name].shape[dim]} channels in dimension {dim}; expected are "
                    f"{shape[dim] - expected.get((name, dim), 0):g} from the layers that it shares them with"
                )


def _free_dims(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the dimensions along which tensors have removable channels or heads: name -> dimensions."""
    free: dict[str, tuple[int, ...]] = {}
    for name, module in model.named_modules():
        if mixes_channels(module) or is_channelwise(module) or is_grouped(module):
            for local in CHANNELWISE_TENSORS:
                both = mixes_channels(module) and local == "weight"
                free[f"{name}.{local}".lstrip(".")] = (0, 1) if both else (0,)
    experts = [group for groups in expert_channels(model).values() for group in groups]
    for group in [*attention_heads(model, left_out={}), *experts]:
        for axis in group.axes:  # among them tables of position biases, which belong to no layer
            free[axis.name] = tuple({*free.get(axis.name, ()), axis.dim})
    return free
