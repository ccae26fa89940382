"""Write a network with early exits for ONNX Runtime into a folder, measure it, and read such a folder."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lightning_dynprune.adaptive.base import PREFIX, AdaptiveModule
from lightning_dynprune.adaptive.deployment import BatchSpeed, Deployed, measure_speed
from lightning_dynprune.adaptive.exits.exit_module import EarlyExits
from lightning_dynprune.adaptive.exits.onnx_exits import OnnxExitRunner, OnnxNetwork, write_stages
from lightning_dynprune.adaptive.exits.running import ExitRunner
from lightning_dynprune.adaptive.folded_norms import dense_form
from lightning_dynprune.base import check_count, check_real, is_number, is_whole, map_tensors, read_json, write_json
from lightning_dynprune.coupling import isolated
from lightning_dynprune.deploy.exporting import ExportError, export, quantize
from lightning_dynprune.deploy.measurement import device_name
from lightning_dynprune.deploy.timing import Clock, Ratio

PRECISIONS = ("float32", "int8")
MANIFEST = "exits.json"
_VERSION = 1
_DENSE = "dense"


@torch.no_grad()
def export_exits(
    model: nn.Module,
    module: AdaptiveModule,
    example: Any,
    folder: Path,
    batches: Sequence[int],
    seconds: float,
    precision: str,
) -> Deployed:
    """Write a network with early exits as ONNX files, measure them beside the whole network's file, and return both.

    Args:
        model: the network, on the CPU; it is not changed.
        module: its early exits.
        example: many inputs like those in use, positional arguments.
        folder: that does not exist, or is empty.
        batches: batch sizes to measure.
        seconds: approximate duration of the measurement at each batch size.
        precision: ``float32``, or ``int8`` for weights of 8 bits, which changes the scores.

    Raises:
        ExportError: the network cannot be split into stages, or a stage cannot be written; no folder is left then.
        FileExistsError: the folder holds files.
        ValueError: a setting is out of range, or the method is not early exits.
    """
    seconds, sizes = check_real("seconds", seconds, low=1e-3), [check_count("batches", size) for size in batches]
    if precision not in PRECISIONS:
        raise ValueError(f"precision={precision!r} is not accepted; give one of {', '.join(PRECISIONS)}")
    if not isinstance(module, EarlyExits):
        raise ValueError(f"method={module.method!r} has no form for ONNX Runtime; only 'early_exit' has one")
    if isinstance(example, Mapping):
        raise ValueError("example: files take positional arguments; give a tensor or a tuple of tensors")
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} holds files; give a folder that is empty or does not exist")
    few = map_tensors(lambda tensor: tensor[:3], example)
    with isolated(model):
        plain, own = copy.deepcopy(model).eval(), copy.deepcopy(module).eval()
    delattr(plain, PREFIX)
    dense = dense_form(plain, few)
    runner = own.runner(dense, few)
    if not isinstance(runner, ExitRunner):
        raise ExportError(f"the network cannot be split into stages: {own.why_pieces}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
        place = Path(scratch) / folder.name
        place.mkdir()
        whole, *stages = _write(dense, runner, few, place, precision == "int8")
        content = {
            "version": _VERSION,
            "precision": precision,
            "dense": whole,
            "stages": stages,
            "thresholds": runner.thresholds,
            "numbers": runner.numbers,
            "path_names": list(own.path_names),
        }
        networks = _networks(place, content)
        speeds = {size: measure_speed(*networks, example, size, seconds) for size in sizes}
        clock: Clock = "cpu" if torch.get_num_threads() == 1 else "wall"
        deployed = Deployed(*networks, speeds, device_name(torch.device("cpu")), clock)
        measured = {str(size): asdict(speed) for size, speed in speeds.items()}
        write_json(place / MANIFEST, {**content, "device": deployed.device_name, "clock": clock, "measured": measured})
        if folder.exists():
            folder.rmdir()
        place.rename(folder)
    return deployed


def read_exits(folder: str | Path) -> Deployed:
    """Return the network that :meth:`Adapted.export` wrote into a folder; it needs no torch model.

    Args:
        folder: as given to ``export``.

    Raises:
        ValueError: the folder holds no such network, or its ``exits.json`` is damaged.
        ImportError: ONNX Runtime is not installed.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    if not path.is_file():
        raise ValueError(f"{folder} holds no {MANIFEST}; give a folder that Adapted.export wrote")
    try:
        content = read_json(path)
        _validate(content)
        speeds = {int(size): _speed(measured) for size, measured in content["measured"].items()}
        for name in (content["dense"], *content["stages"]):
            if not (folder / name).is_file():
                raise ValueError(f"{name} is missing")
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    return Deployed(*_networks(folder, content), speeds, content["device"], content["clock"])


def _write(dense: nn.Module, runner: ExitRunner, few: Any, place: Path, is_int8: bool) -> list[str]:
    """Write the whole network and the stages; return the names of the files in use, and remove all others."""
    whole = export(dense, few, "onnx", place / f"{_DENSE}.onnx")
    files = [quantize(whole) if is_int8 else whole, *write_stages(runner, few, place, int8=is_int8)]
    names = [file.path.name for file in files]
    for path in place.iterdir():
        if path.name not in names:
            path.unlink()
    return names


def _networks(folder: Path, content: Mapping[str, Any]) -> tuple[OnnxNetwork, OnnxExitRunner]:
    stages = [folder / name for name in content["stages"]]
    runner = OnnxExitRunner(stages, content["thresholds"], content["numbers"])
    return OnnxNetwork(folder / content["dense"]), runner


def _validate(content: Any) -> None:
    """Raise unless a manifest has all entries, of the right kinds and lengths, and names files of its own folder."""
    if not isinstance(content, dict):
        raise ValueError("it holds no mapping")
    if content.get("version") != _VERSION:
        raise ValueError(f"version={content.get('version')!r} is not read by this release; {_VERSION} is")
    stages, thresholds, numbers = content["stages"], content["thresholds"], content["numbers"]
    if (
        not isinstance(stages, list)
        or not stages
        or not _fits(thresholds, len(stages) - 1)
        or not _fits(numbers, len(stages))
    ):
        raise ValueError("stages, thresholds and numbers do not go together")
    for name in (content["dense"], *stages):
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".onnx"):
            raise ValueError(f"{name!r} is no name of an ONNX file in the folder")
    if not all(is_number(each) for each in thresholds) or not all(is_whole(each) for each in numbers):
        raise ValueError("a threshold is no number, or the number of an exit is no whole number")
    if content["clock"] not in ("cpu", "wall") or not isinstance(content["device"], str):
        raise ValueError("clock or device has another value than Adapted.export writes")


def _fits(values: Any, length: int) -> bool:
    return isinstance(values, list) and len(values) == length


def _speed(measured: Mapping[str, Any]) -> BatchSpeed:
    ratio = Ratio(**{name: measured["ratio"][name] for name in ("median", "low", "high", "rounds")})
    (p50, p95) = (tuple(float(each) for each in measured[name]) for name in ("p50", "p95"))
    if len(p50) != 2 or len(p95) != 2 or not isinstance(measured["is_adaptive"], bool):
        raise ValueError("a measurement is incomplete")
    return BatchSpeed(ratio, (p50[0], p50[1]), (p95[0], p95[1]), measured["is_adaptive"])
