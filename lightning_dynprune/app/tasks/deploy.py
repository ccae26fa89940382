"""``dynprune task=deploy``: measure the time, memory and size of a trained run in all its deployment variants."""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console
from torch import Tensor, nn

from lightning_dynprune.adaptive import Adapted, EarlyExits
from lightning_dynprune.app.data import InMemoryImages
from lightning_dynprune.app.runs import (
    attach_per_input,
    check_no_links,
    dense_file,
    load_weights,
    per_input_file,
    weights_file,
)
from lightning_dynprune.base import check_count, write_json
from lightning_dynprune.deploy.measurement import measure
from lightning_dynprune.report import deploy_table

# These loggers report each step, and each missing optional package.
EXPORTERS = ("onnxscript", "onnx_ir", "torch.onnx", "torchao")
_EXAMPLES = 256  # validation images on which per-input pruning is timed: with fewer, rare hard ones are missed


def run_deploy(cfg: DictConfig) -> float:
    """Measure a trained run, print the tables and write them as JSON beside the checkpoint.

    Args:
        cfg: the settings, with those of ``conf/task/deploy.yaml``.

    Returns:
        The test accuracy of the pruned network.

    Raises:
        ValueError: a setting cannot work, or the weights do not fit.
        FileNotFoundError: there is no checkpoint.
        FileExistsError: the report exists already.
    """
    if cfg.checkpoint is None:
        raise ValueError(
            "task=deploy needs a trained run: give checkpoint=FOLDER, its last.ckpt or a .safetensors file"
        )
    file = weights_file(Path(cfg.checkpoint))
    output = Path(cfg.output) if cfg.output is not None else file.parent / "deploy.json"
    if output.exists():
        raise FileExistsError(f"{output} exists; give output=FILE, or move it away")
    check_count("calibration", cfg.calibration)
    torch.set_num_threads(cfg.threads)
    for name in EXPORTERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    network = new_network(cfg)
    load_weights(network, file)
    dense = new_network(cfg)
    if (found := dense_file(file.parent)) is not None:
        load_weights(dense, found)
    data: InMemoryImages = instantiate(cfg.data)
    data.setup()
    check_no_links(file.parent)
    batches = list(cfg.batches)
    report = measure(
        network,
        data.test.images[: max(batches, default=1)],
        dense=dense,
        dense_is_trained=found is not None,
        batches=batches,
        formats=list(cfg.formats),
        rivals=cfg.rivals,
        evaluate=accuracy_function(data, max(batches, default=1)),
        calibration=[images for images, _ in islice(data.train_dataloader(), cfg.calibration)],
        seconds=cfg.seconds,
        tolerance=cfg.tolerance,
        exports=file.parent / "exports" if cfg.formats else None,
    )
    content: dict[str, Any] = {
        **report.to_dict(),
        "adaptive": per_input_report(network, file, data, cfg),
        "checkpoint": file.name,
        "overrides": list(HydraConfig.get().overrides.task),
        "versions": {"python": platform.python_version(), "torch": version("torch")},
    }
    write_json(output, content)
    Console().print(deploy_table(content, output))
    accuracy = report["pruned"].accuracy
    assert accuracy is not None
    return accuracy


def per_input_report(network: nn.Module, file: Path, data: InMemoryImages, cfg: DictConfig) -> dict[str, Any] | None:
    """Return how fast and accurate a run's per-input pruning is; None without one.

    Args:
        network: with the run's weights.
        file: of these weights.
        data: the image set.
        cfg: the settings.
    """
    if (found := per_input_file(file)) is None:
        return None
    attach_per_input(network, found)
    adapted = Adapted(network, data.val.images[:_EXAMPLES])
    batches, accuracy = tuple(cfg.batches), accuracy_function(data, max(cfg.batches))
    deployed = adapted.deploy(batches=batches, seconds=cfg.seconds)
    report = {"summary": adapted.module.summary, "accuracy": accuracy(deployed), "speeds": deployed.to_dict()}
    if "onnx" in cfg.formats and isinstance(adapted.module, EarlyExits):
        written = adapted.export(file.parent / "exports" / "exits", batches=batches, seconds=cfg.seconds)
        report["onnx"] = {"accuracy": accuracy(written), "speeds": written.to_dict()}
    return report


def new_network(cfg: DictConfig) -> nn.Module:
    """Return the untrained network that the settings describe."""
    L.seed_everything(cfg.seed, verbose=False)
    network: nn.Module = instantiate(cfg.model)
    return network.eval()


def accuracy_function(data: InMemoryImages, batch: int) -> Callable[[Callable[..., Any]], float]:
    """Return a function that measures the test accuracy of a model.

    Args:
        data: the image set.
        batch: images per call; the last call is filled up with repeated images, since some exports accept one batch
            size only.
    """
    images, labels = data.test.images, data.test.labels

    @torch.no_grad()
    def evaluate(run: Callable[..., Any]) -> float:
        correct = 0
        for start in range(0, len(labels), batch):
            inputs, expected = images[start : start + batch], labels[start : start + batch]
            scores: Tensor = run(inputs[torch.arange(batch) % len(inputs)])
            correct += int((scores[: len(expected)].argmax(1) == expected).sum())
        return correct / len(labels)

    return evaluate
