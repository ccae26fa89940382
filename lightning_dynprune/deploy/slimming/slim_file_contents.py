"""What a file of a slim model says, checked against the model that it is to fit."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from torch import Size, Tensor, nn
from torch.nn.modules.instancenorm import _InstanceNorm

from lightning_dynprune.base import is_whole
from lightning_dynprune.coupling import (
    CHANNELWISE_TENSORS,
    HEAD_COUNT_ATTRIBUTES,
    Group,
    attention_heads,
    holds_tensors,
    is_channelwise,
    mixes_channels,
    num_output_channels,
)

FORMAT = "lightning-dynprune slim"
VERSION = "1"
# A thousand attention modules with long names take a tenth of this.
_MOST = 2**20


def width_attributes(model: nn.Module) -> dict[str, int]:
    """Return what no tensor's shape tells: numbers of heads, and channels of instance norms without tensors."""
    found = {}
    for name, module in model.named_modules():
        locals_ = (
            ("num_features",)
            if isinstance(module, _InstanceNorm) and not holds_tensors(module)
            else HEAD_COUNT_ATTRIBUTES
        )
        for local in locals_:
            value = getattr(module, local, None)
            if is_whole(value, low=1):
                found[f"{name}.{local}".lstrip(".")] = int(value)
    return found


def tensors_of(model: nn.Module) -> list[tuple[list[str], Tensor]]:
    """Return the tensors of a state dict with all their names; a tied one once.

    Raises:
        ValueError: an entry is no tensor, or none that a module holds under this name.
    """
    held = {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }
    names: dict[Tensor, list[str]] = {}
    for name in model.state_dict(keep_vars=True):
        if name not in held:
            raise ValueError(f"state dict: {name!r} is no parameter or buffer of that name, so it cannot be saved")
        names.setdefault(held[name], []).append(name)
    return [(shared, tensor) for tensor, shared in names.items()]


def to_metadata(model: nn.Module) -> dict[str, str]:
    """Return the metadata of a slim model's file."""
    text = json.dumps(width_attributes(model), separators=(",", ":"))
    return {"format": FORMAT, "version": VERSION, "attributes": text}


def from_metadata(metadata: Mapping[str, str], model: nn.Module) -> dict[str, int]:
    """Return the attributes that a file says, name -> value.

    Raises:
        ValueError: the metadata are another file's, or damaged; or they name what a slim model may not change.
    """
    if metadata.get("format") != FORMAT:
        raise ValueError(f"format {metadata.get('format')!r} is not {FORMAT!r}; load reads what save wrote")
    if metadata.get("version") != VERSION:
        raise ValueError(f"version {metadata.get('version')!r} is unknown; this release reads version {VERSION!r}")
    text = metadata.get("attributes", "")
    if len(text) > _MOST:
        raise ValueError(f"attributes take {len(text)} bytes; accepted are {_MOST}")
    try:
        said = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"attributes are no JSON: {error}") from error
    if not isinstance(said, dict):
        raise ValueError(f"attributes are a {type(said).__name__}, not a mapping from names")
    known = width_attributes(model)
    for name, value in said.items():
        if name not in known:
            raise ValueError(f"attribute {name[:200]!r} is no number of heads or channels of {type(model).__name__}")
        if not is_whole(value, 1, known[name]):
            raise ValueError(f"attribute {name!r}: {str(value)[:200]} is not accepted; give 1 to {known[name]}")
    return said


def match_tensors(model: nn.Module, shapes: Mapping[str, Sequence[int]]) -> dict[str, str]:
    """Return under which name the file holds each of the model's tensors: name in the model -> name in the file.

    Raises:
        ValueError: a tensor is missing, unexpected, wider than the model's, or narrower where no channels lie.
    """
    found: dict[str, str] = {}
    taken = set()
    free = _free_dims(model)
    for names, tensor in tensors_of(model):
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


def validate_layers(model: nn.Module, heads: Sequence[Group]) -> None:
    """Raise ValueError where the tensors of one layer, or of one attention module, do not agree in their widths."""
    for name, module in model.named_modules():
        if not mixes_channels(module) and not is_channelwise(module):
            continue
        lengths = {}
        for local in CHANNELWISE_TENSORS:
            tensor = getattr(module, local, None)
            if tensor is not None:
                lengths[local] = (
                    num_output_channels(module) if mixes_channels(module) and local == "weight" else len(tensor)
                )
        if len(set(lengths.values())) > 1:
            told = ", ".join(f"{name}.{local} has {length}" for local, length in lengths.items())
            raise ValueError(f"channels do not agree: {told}")
    if heads:
        now = {group.name: group for group in attention_heads(model, left_out={})}
        for group in heads:
            last = group.axes[-1]
            size = last.index.shape[1]
            count = now[group.name].units if group.name in now else 0
            if model.get_parameter(last.name).shape[last.dim] != count * size:
                raise ValueError(
                    f"heads do not agree: {last.name!r} reads {model.get_parameter(last.name).shape[last.dim]} "
                    f"channels, which are not {count or 'whole'} heads of {size}"
                )


def validate_groups(model: nn.Module, groups: Sequence[Group], before: Mapping[str, Size]) -> None:
    """Raise ValueError where tensors that share channels have lost unlike numbers of them."""
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
    for name, shape in before.items():
        for dim in range(len(shape)):
            if lost(name, dim) != expected.get((name, dim), 0):
                raise ValueError(
                    f"tensor {name!r} has {tensors[name].shape[dim]} channels in dimension {dim}; expected are "
                    f"{shape[dim] - expected.get((name, dim), 0):g} from the layers that it shares them with"
                )


def _free_dims(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return along which dimensions the tensors of layers have channels that may go: name -> dimensions."""
    free: dict[str, tuple[int, ...]] = {}
    for name, module in model.named_modules():
        if mixes_channels(module) or is_channelwise(module):
            for local in CHANNELWISE_TENSORS:
                both = mixes_channels(module) and local == "weight"
                free[f"{name}.{local}".lstrip(".")] = (0, 1) if both else (0,)
    return free
