"""Save and load slim models as safetensors files that contain their widths, without pickle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from lightning_dynprune.base import write_atomically
from lightning_dynprune.coupling import (
    CouplingError,
    Group,
    Narrowing,
    attention_heads,
    attention_projections,
    coupled_groups,
    expert_channels,
    isolated,
    run_example,
)
from lightning_dynprune.deploy.compact import open_tensors, write_tensors
from lightning_dynprune.deploy.slimming.slim_file_contents import (
    from_metadata,
    match_tensors,
    state_tensors,
    to_metadata,
    validate_groups,
    validate_layers,
)


def save(model: nn.Module, path: str | Path) -> None:
    """Write a model, slim or not, to one safetensors file that :func:`load` reads.

    The file holds the state dict, with tied tensors once, and as JSON metadata what tensor shapes do not show: numbers
    of heads, and channels of instance norms without parameters. It is written atomically.

    Args:
        model: the network.
        path: the file; an existing one is replaced.

    Raises:
        ValueError: the state dict has an entry that is not a parameter or buffer.
    """
    # Tensors that overlap but are not equal are written separately.
    tensors = {names[0]: tensor.detach().cpu().contiguous() for names, tensor in state_tensors(model)}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage().data_ptr()
        if storage in seen or tensor.untyped_storage().nbytes() != tensor.numel() * tensor.element_size():
            tensors[name] = tensor.clone()
        seen.add(storage)
    write_atomically(Path(path), lambda scratch: write_tensors(tensors, scratch, to_metadata(model)))


def load(model: nn.Module, path: str | Path, example_input: Any = None) -> nn.Module:
    """Narrow a model to the widths of a file that :func:`save` wrote, and load all its tensors.

    Parameters and buffers stay the same objects on their device. If the file does not fit, the model is unchanged.

    Args:
        model: a model of the original class with its original widths.
        path: the file.
        example_input: as for :func:`~lightning_dynprune.coupling.coupled_groups`. If set, :func:`load` also checks that
            tensors which share channels agree in their number, and that the model runs.
            Without it, widths are compared only within each layer and each attention module.

    Returns:
        The model.

    Raises:
        ValueError: the file is damaged or of another kind or version; a tensor is missing, unexpected, of another
            dtype, wider than the model's, or narrower along a dimension without channels; widths do not agree; or an
            attribute is not one that slimming changes. The message names the tensor or the attribute.

    Example:
        >>> import tempfile
        >>> from lightning_dynprune.deploy.slimming import slim
        >>> def network(): return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> net, example = network(), torch.randn(1, 3)
        >>> net[2].weight.data[:, 1:3] = 0
        >>> report = slim(net, example)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(net, f"{folder}/slim.safetensors")
        ...     again = load(network(), f"{folder}/slim.safetensors")
        >>> torch.equal(again(example), net(example)), again[0].out_features
        (True, 2)
    """
    path = Path(path)
    heads, projections = attention_heads(model, left_out={}), attention_projections(model)
    experts = list(expert_channels(model))
    groups: list[Group] = []
    if example_input is not None:
        groups = coupled_groups(model, example_input).groups
    try:
        tensors, attributes = _read(model, path)
        change = Narrowing(model)
        before = {name: tensor.shape for name, tensor in change.tensors.items()}
        try:
            _load_into(change, tensors, attributes)
            validate_layers(model, heads, projections, experts)
            if example_input is not None:
                validate_groups(model, groups, heads, before)
                with isolated(model), torch.no_grad():
                    run_example(model, example_input)
        except BaseException:
            change.undo()
            raise
    except SafetensorError as error:
        raise ValueError(f"{path} is not a complete safetensors file: {error}") from error
    except CouplingError as error:
        raise ValueError(f"{path}: the model does not run with these widths: {error}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return model


def _read(model: nn.Module, path: Path) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Return the tensors, by first name in the model, and the attributes; check shapes before reading values."""
    with open_tensors(path) as file:
        attributes = from_metadata(file.metadata() or {}, model)
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 - not a mapping
        found = match_tensors(model, shapes)
        tensors = {name: file.get_tensor(there) for name, there in found.items()}
    own = {names[0]: (names, tensor) for names, tensor in state_tensors(model)}
    for name, tensor in tensors.items():
        if tensor.dtype != own[name][1].dtype:
            raise ValueError(f"tensor {found[name]!r} is {tensor.dtype}, and the model's {own[name][1].dtype}")
    return tensors, attributes


def _load_into(change: Narrowing, tensors: dict[str, Tensor], attributes: dict[str, int]) -> None:
    for name, tensor in tensors.items():
        own = change.tensors[name].data
        # The new tensor follows the memory format of a slice of the old one.
        change.set(name, torch.empty_like(own[tuple(slice(size) for size in tensor.shape)]).copy_(tensor))
    for name, value in attributes.items():
        owner, _, local = name.rpartition(".")
        module = change.model.get_submodule(owner)
        if getattr(module, local) != value:
            change.set_attribute(module, local, value)
    change.update_widths()
