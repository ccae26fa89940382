"""Save the chosen kernel of each layer as JSON, and apply it again without measuring."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from torch import nn

from lightning_dynprune.base import read_json, write_json
from lightning_dynprune.deploy.kernels.base import KERNELS, Kernel
from lightning_dynprune.deploy.kernels.eligibility import linear_layers, reasons_to_stay_dense
from lightning_dynprune.deploy.timing import Latency

DENSE = "dense"
_FORMAT, _VERSION = "lightning-dynprune kernel choice", 1


@dataclass(frozen=True)
class LayerChoice:
    """The kernel of one layer, and the measurements behind the choice.

    Args:
        name: the layer's name in the model.
        shape: its outputs and inputs.
        kernel: a registered name, or "dense" for the unchanged layer.
        settings: the kernel's settings.
        why: the reason for the choice.
        latencies: label of a candidate -> its latency on the layer's inputs.
        rejections: label or name of a candidate -> why it was not timed.
    """

    name: str
    shape: tuple[int, int]
    kernel: str = DENSE
    settings: Mapping[str, int] = field(default_factory=dict)
    why: str = ""
    latencies: Mapping[str, Latency] = field(default_factory=dict)
    rejections: Mapping[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Kernel and settings, as tables print them."""
        return " ".join([self.kernel, *map(str, self.settings.values())])


def write_choice(path: str | Path, layers: Iterable[LayerChoice]) -> None:
    """Write the kernel of each layer as JSON, atomically."""
    rows = {
        layer.name: {"kernel": layer.kernel, "settings": dict(layer.settings), "shape": list(layer.shape)}
        for layer in layers
    }
    write_json(Path(path), {"format": _FORMAT, "version": _VERSION, "layers": rows})


def apply_choice(model: nn.Module, choice: str | Path | Mapping[str, Any]) -> nn.Module:
    """Return a copy of a model, in eval mode, with the kernels of a saved choice; nothing is measured.

    Args:
        model: a model with the Linear layers that the choice was made for; it is not changed. Its weights may have
            changed: the kernels are made from the current ones.
        choice: the file that :meth:`Accelerated.save_choice` wrote, or its content.

    Returns:
        The copy; :func:`restore` puts its Linear layers back.

    Raises:
        ValueError: the file is invalid, was made for other layers, or names a kernel that cannot compute its layer; the
            message names the layer.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8))
        >>> _ = model[0].weight.data[:, 1:].zero_()
        >>> row = {"kernel": "csr", "settings": {}, "shape": [8, 4]}
        >>> head = {"format": "lightning-dynprune kernel choice", "version": 1}
        >>> apply_choice(model, head | {"layers": {"0": row}})
        Sequential(
          (0): CSR(csr, in_features=4, out_features=8)
        )
    """
    rows = _validate(model, choice if isinstance(choice, Mapping) else _read(Path(choice)))
    accelerated = copy.deepcopy(model).eval()
    for name, layer in linear_layers(accelerated).items():
        kernel_class, settings = rows[name]
        if kernel_class is None:
            continue
        try:
            kernel = kernel_class(layer, **settings)
        except ValueError as error:
            raise ValueError(
                f"choice: layer {name!r} cannot run on its kernel: {error}; run accelerate again"
            ) from error
        accelerated = replace_module(accelerated, name, kernel)
    return accelerated


def restore(model: nn.Module) -> nn.Module:
    """Replace a model's kernels by Linear layers equal to the original ones, in place.

    Returns:
        The model; or the Linear, where the whole model is one kernel.
    """
    kernels = [(name, module) for name, module in model.named_modules() if isinstance(module, Kernel)]
    for name, kernel in kernels:
        model = replace_module(model, name, kernel.dense())
    return model


def replace_module(model: nn.Module, name: str, module: nn.Module) -> nn.Module:
    """Replace the module called ``name``, in place; return the model, or ``module`` where the name is empty."""
    if not name:
        return module
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)
    return model


def _read(path: Path) -> Mapping[str, Any]:
    try:
        content = read_json(path, _without_duplicates)
    except ValueError as error:
        raise ValueError(f"choice: {path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"choice: {path} holds a {type(content).__name__}; expected an object")
    return content


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for key, value in pairs:
        if key in content:
            raise ValueError(f"{key[:200]!r} appears twice")
        content[key] = value
    return content


def _validate(model: nn.Module, content: Mapping[str, Any]) -> dict[str, tuple[type[Kernel] | None, dict[str, int]]]:
    """Return the kernel class (None for dense) and the settings of each Linear, after validating all of them."""
    head = {"format": _FORMAT, "version": _VERSION}
    if {key: content.get(key) for key in head} != head or set(content) != {*head, "layers"}:
        raise ValueError(f"choice: expected format {_FORMAT!r}, version {_VERSION} and layers, nothing else")
    rows, layers, dense_only = content["layers"], linear_layers(model), reasons_to_stay_dense(model)
    if not isinstance(rows, Mapping):
        raise ValueError(f"choice: layers is a {type(rows).__name__}; expected an object")
    for name in rows:
        if name not in layers:
            raise ValueError(
                f"choice: layer {str(name)[:200]!r} is not a Linear of this model; run accelerate on this model"
            )
    checked: dict[str, tuple[type[Kernel] | None, dict[str, int]]] = {}
    for name, layer in layers.items():
        if name not in rows:
            raise ValueError(f"choice: layer {name!r} of this model is not in it; run accelerate on this model")
        try:
            kernel_class, settings = _validate_row(layer, rows[name])
        except ValueError as error:
            raise ValueError(f"choice: layer {name!r}: {error}") from error
        if kernel_class is not None and name in dense_only:
            raise ValueError(f"choice: layer {name!r} must stay dense: {dense_only[name]}")
        checked[name] = kernel_class, settings
    return checked


def _validate_row(layer: nn.Linear, row: object) -> tuple[type[Kernel] | None, dict[str, int]]:
    if not isinstance(row, Mapping) or set(row) != {"kernel", "settings", "shape"}:
        raise ValueError("expected kernel, settings and shape, nothing else")
    shape = [layer.out_features, layer.in_features]
    if row["shape"] != shape or any(type(size) is not int for size in row["shape"]):
        raise ValueError(f"the choice was made for the shape {_shorten(row['shape'])}, and the layer has {shape}")
    name, settings = row["kernel"], row["settings"]
    if not isinstance(name, str):
        raise ValueError(f"kernel is a {type(name).__name__}; expected a name")
    kernel_class = None if name == DENSE else KERNELS[name[:200]]
    known = () if kernel_class is None else kernel_class.setting_names
    if not isinstance(settings, Mapping) or set(settings) != set(known):
        raise ValueError(f"kernel {name!r} has the settings: {', '.join(known) or 'none'}; the file gives others")
    if any(map(_is_nested, settings.values())):
        raise ValueError(f"kernel {name!r} takes numbers for {', '.join(known)}; the file gives a nested value")
    return kernel_class, dict(cast("Mapping[str, int]", settings))


def _shorten(value: object) -> str:
    """Return a value from a file, shortened for a message."""
    return f"of a {type(value).__name__}" if _is_nested(value) else str(value)[:100]


def _is_nested(value: object) -> bool:
    """Return whether a value from a file is nested, and so may be too deep to print."""
    return isinstance(value, Mapping) or (isinstance(value, list) and any(isinstance(v, (list, dict)) for v in value))
