"""Which kernel each layer runs on: written as JSON, applied without measuring again."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from torch import nn

from lightning_dynprune.base import write_json
from lightning_dynprune.deploy.kernels.base import KERNELS, Kernel
from lightning_dynprune.deploy.kernels.eligibility import linear_layers, reasons_to_stay_dense
from lightning_dynprune.deploy.timing import Latency

DENSE = "dense"
_FORMAT, _VERSION = "lightning-dynprune kernel choice", 1
_LARGEST_FILE = 2**24  # bytes


@dataclass(frozen=True)
class LayerChoice:
    """The kernel of one layer, and what it was chosen by.

    Args:
        name: the layer's name in the model.
        shape: its outputs and inputs.
        kernel: a registered name, or "dense" for the layer as it is.
        settings: the kernel's settings.
        why: the reason, in words.
        latencies: what each candidate took for what captured at the layer, by its label.
        rejections: why a candidate was not measured, by its label or name.
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
    """Write the kernel of each layer as JSON, whole or not at all."""
    rows = {
        layer.name: {"kernel": layer.kernel, "settings": dict(layer.settings), "shape": list(layer.shape)}
        for layer in layers
    }
    write_json(Path(path), {"format": _FORMAT, "version": _VERSION, "layers": rows})


def apply_choice(model: nn.Module, choice: str | Path | Mapping[str, Any]) -> nn.Module:
    """Return a copy of a model, in eval mode, with the kernels of a choice made earlier; nothing is measured.

    Args:
        model: has the Linear layers that the choice was made for; it is not changed. Its weights may have changed: the
            kernels are made from those it has now.
        choice: the file that :meth:`Accelerated.save_choice` wrote, or its content.

    Returns:
        The copy; :func:`restore` gives its layers back.

    Raises:
        ValueError: no such file content, other layers than the model's, or a kernel that cannot compute its layer; the
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
    rows = _checked(model, choice if isinstance(choice, Mapping) else _read(Path(choice)))
    accelerated = copy.deepcopy(model).eval()
    for name, layer in linear_layers(accelerated).items():
        kind, settings = rows[name]
        if kind is None:
            continue
        try:
            kernel = kind(layer, **settings)
        except ValueError as error:
            raise ValueError(f"choice: layer {name!r} cannot run on its kernel: {error}; choose anew") from error
        accelerated = replace_module(accelerated, name, kernel)
    return accelerated


def restore(model: nn.Module) -> nn.Module:
    """Put the Linear layers back in the place of a model's kernels, in place, equal to what they were.

    Returns:
        The model; where the whole model is a kernel, the layer.
    """
    kernels = [(name, module) for name, module in model.named_modules() if isinstance(module, Kernel)]
    for name, kernel in kernels:
        model = replace_module(model, name, kernel.dense())
    return model


def replace_module(model: nn.Module, name: str, module: nn.Module) -> nn.Module:
    """Put a module in the place of the one named, in place; return the model, or the module where it is all of it."""
    if not name:
        return module
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)
    return model


def _read(path: Path) -> Mapping[str, Any]:
    if path.stat().st_size > _LARGEST_FILE:
        raise ValueError(f"choice: {path} has {path.stat().st_size} bytes; a choice has at most {_LARGEST_FILE}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"choice: {path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"choice: {path} holds a {type(content).__name__}; expected an object")
    return content


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for key, value in pairs:
        if key in content:
            raise ValueError(f"{key[:200]!r} is given twice")
        content[key] = value
    return content


def _checked(model: nn.Module, content: Mapping[str, Any]) -> dict[str, tuple[type[Kernel] | None, dict[str, int]]]:
    """Return the kernel class, None for dense, and the settings of each Linear, all of them checked."""
    head = {"format": _FORMAT, "version": _VERSION}
    if {key: content.get(key) for key in head} != head or set(content) != {*head, "layers"}:
        raise ValueError(f"choice: expected format {_FORMAT!r}, version {_VERSION} and layers, nothing else")
    rows, layers, stay = content["layers"], linear_layers(model), reasons_to_stay_dense(model)
    if not isinstance(rows, Mapping):
        raise ValueError(f"choice: layers is a {type(rows).__name__}; expected an object")
    for name in rows:
        if name not in layers:
            raise ValueError(f"choice: layer {str(name)[:200]!r} is no Linear of this model; choose anew for it")
    checked: dict[str, tuple[type[Kernel] | None, dict[str, int]]] = {}
    for name, layer in layers.items():
        if name not in rows:
            raise ValueError(f"choice: layer {name!r} of this model is not in it; choose anew for this model")
        try:
            kind, settings = _row(layer, rows[name])
        except ValueError as error:
            raise ValueError(f"choice: layer {name!r}: {error}") from error
        if kind is not None and name in stay:
            raise ValueError(f"choice: layer {name!r} has to stay dense here: {stay[name]}")
        checked[name] = kind, settings
    return checked


def _row(layer: nn.Linear, row: object) -> tuple[type[Kernel] | None, dict[str, int]]:
    if not isinstance(row, Mapping) or set(row) != {"kernel", "settings", "shape"}:
        raise ValueError("expected kernel, settings and shape, nothing else")
    shape = [layer.out_features, layer.in_features]
    if row["shape"] != shape or any(type(size) is not int for size in row["shape"]):
        raise ValueError(f"it was chosen for the shape {_told(row['shape'])}, and has {shape} here")
    name, settings = row["kernel"], row["settings"]
    if not isinstance(name, str):
        raise ValueError(f"kernel is a {type(name).__name__}; expected a name")
    kind = None if name == DENSE else KERNELS[name[:200]]
    known = () if kind is None else kind.setting_names
    if not isinstance(settings, Mapping) or set(settings) != set(known):
        raise ValueError(f"kernel {name!r} has the settings: {', '.join(known) or 'none'}; other ones are given")
    if any(map(_is_nested, settings.values())):
        raise ValueError(f"kernel {name!r} takes numbers for {', '.join(known)}; something nested is given")
    return kind, dict(cast("Mapping[str, int]", settings))


def _told(value: object) -> str:
    """Return a value of a file as a message names it."""
    return f"of a {type(value).__name__}" if _is_nested(value) else str(value)[:100]


def _is_nested(value: object) -> bool:
    """Return whether a value of a file may be too deep to be printed."""
    return isinstance(value, Mapping) or (isinstance(value, list) and any(isinstance(v, (list, dict)) for v in value))
