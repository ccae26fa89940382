"""``dynprune task=preflight``: measure the speed-up that each pattern would give, before any training."""

from __future__ import annotations

from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console

from lightning_dynprune.app.data import InMemoryImages
from lightning_dynprune.app.runs import RunFolder
from lightning_dynprune.app.tasks.deploy import new_network
from lightning_dynprune.base import write_json
from lightning_dynprune.deploy.forecast import DEFAULTS, preflight
from lightning_dynprune.patterns import PATTERNS, Pattern
from lightning_dynprune.report import preflight_table


def run_preflight(cfg: DictConfig, folder: RunFolder) -> None:
    """Measure the speed-up of patterns on an untrained network, print the table and write it as JSON.

    Args:
        cfg: the settings, with those of ``conf/task/preflight.yaml``.
        folder: the folder that ``preflight.json`` is written to.

    Raises:
        ValueError: a setting cannot work.
    """
    torch.set_num_threads(cfg.threads)
    network = new_network(cfg)
    data: InMemoryImages = instantiate(cfg.data)
    data.setup()
    targets = instantiate(cfg.targets, _convert_="all")
    outlook = preflight(
        network,
        data.train_dataloader().images[: max(cfg.batches, default=1)],
        patterns=forecast_patterns(instantiate(cfg.pattern)),
        batches=list(cfg.batches),
        sparsities=list(cfg.sparsities),
        targets=targets["include"],
        exclude=tuple(targets["exclude"]),
        seconds=cfg.seconds,
    )
    content: dict[str, Any] = {**outlook.to_dict(), "overrides": folder.overrides}
    path = folder.path / "preflight.json"
    write_json(path, content)
    Console().print(preflight_table(content, path))


def forecast_patterns(chosen: Pattern) -> list[Pattern]:
    """Return the default patterns, with the chosen one in place of the default of its class.

    Example:
        >>> from lightning_dynprune.patterns import Block
        >>> [pattern.label for pattern in forecast_patterns(Block(rows=16))]
        ['channel', 'block 16x1', 'element', 'n_m 2:4']
    """
    defaults = [PATTERNS.build(pattern) for pattern in DEFAULTS]
    if not any(type(pattern) is type(chosen) for pattern in defaults):
        return [*defaults, chosen]
    return [chosen if type(pattern) is type(chosen) else pattern for pattern in defaults]
