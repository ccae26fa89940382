"""The weights of a finished or stopped run and of its dense baseline, found and loaded for ``task=deploy``."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from lightning_dynprune.app.runs.records import read_record
from lightning_dynprune.app.runs.resume import read_run
from lightning_dynprune.base import read_checkpoint

_KEY = re.compile(r"[0-9a-f]{16}")


def weights_file(path: Path) -> Path:
    """Return the file of weights at a path: the path itself if it is a file, or the file in a run's folder.

    Raises:
        FileNotFoundError: there is no such file.
    """
    if path.is_file():
        return path
    for name in ("model.safetensors", "last.ckpt"):
        if (path / name).is_file():
            return path / name
    what = "the folder holds neither model.safetensors nor last.ckpt" if path.is_dir() else "there is no such path"
    raise FileNotFoundError(f"checkpoint={path}: {what}; give a run's folder, its last.ckpt or a .safetensors file")


def dense_file(folder: Path) -> Path | None:
    """Return the file of the dense baseline's weights, in the folder of the run or of its sweep; None without one."""
    if (own := folder / "dense.safetensors").is_file():
        return own
    try:
        key = read_record(folder / "dense.json").get("key", "")
    except (OSError, ValueError):
        return None
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        return None
    shared = folder.parent / "dense" / f"{key}.safetensors"
    return shared if shared.is_file() else None


def per_input_file(file: Path) -> Path | None:
    """Return the file of the module of per-input pruning beside the weights of a finished run; None without one.

    Args:
        file: of weights. Those of a checkpoint are from before the module was fitted.
    """
    found = file.parent / "adaptive.safetensors"
    return found if file.name == "model.safetensors" and found.is_file() else None


def attach_per_input(network: nn.Module, file: Path) -> None:
    """Add the module of per-input pruning that a file holds to a network.

    Args:
        network: with the weights that the module was fitted to.
        file: of :func:`per_input_file`.

    Raises:
        ValueError: the file is damaged or does not fit the network.
    """
    from lightning_dynprune.adaptive import attach

    try:
        attach(network, _of_safetensors(file, 1))
    except (SafetensorError, RuntimeError, ValueError) as error:
        raise ValueError(f"{file.name} does not fit {type(network).__name__}, or is damaged: {error}") from error


def load_weights(network: nn.Module, file: Path) -> None:
    """Load the weights of a file into a network; weights of a slim network make the network slim.

    Args:
        network: the network that the settings describe.
        file: a checkpoint of the program, or a safetensors file with a state dict, a compact or a slim model.

    Raises:
        ValueError: the file is damaged or does not fit the network.
    """
    from lightning_dynprune.deploy.slimming import FORMAT, load
    from lightning_dynprune.engine import fit_to

    try:
        if file.suffix != ".ckpt" and _format(file) == FORMAT:
            load(network, file)
            return
        most = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
        weights = _of_checkpoint(file) if file.suffix == ".ckpt" else _of_safetensors(file, most)
        fit_to(network, weights)
        network.load_state_dict(weights)
    except (RuntimeError, ValueError) as error:
        lines = [line.strip() for line in str(error).splitlines()]
        raise ValueError(
            f"checkpoint={file} does not fit {type(network).__name__}: {' '.join(lines)[:500]}; give the settings that "
            "the run had (model=..., data=...)"
        ) from error


def _format(file: Path) -> str | None:
    from lightning_dynprune.deploy.compact import open_tensors

    try:
        with open_tensors(file) as opened:
            return (opened.metadata() or {}).get("format")
    except SafetensorError as error:
        raise ValueError(f"it is no whole safetensors file: {error}") from error


def _of_safetensors(file: Path, most: int) -> dict[str, Tensor]:
    """Return the weights of a file; raise before they take more than ``most`` bytes."""
    from safetensors.torch import load_file

    from lightning_dynprune.deploy.compact import FORMAT, load_compact

    return load_compact(file, limit=max(most, 1)) if _format(file) == FORMAT else load_file(file)


def _of_checkpoint(file: Path) -> dict[str, Tensor]:
    """Return the network's weights from a checkpoint.

    Raises:
        ValueError: the file is no checkpoint of the program, or damaged.
    """
    read_run(file)
    weights, prefix = read_checkpoint(file).get("state_dict"), "network."
    if not isinstance(weights, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) and value.layout == torch.strided
        for name, value in weights.items()
    ):
        raise ValueError("the checkpoint is damaged: state_dict is no mapping from names to dense tensors")
    # Heads of early exits that train with the network are in its checkpoint, and no part of the plain network.
    own, heads = {n: v for n, v in weights.items() if n.startswith(prefix)}, f"{prefix}adaptive."
    return {name.removeprefix(prefix): value for name, value in own.items() if not name.startswith(heads)}
