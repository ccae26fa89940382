"""The pruning callback made from the configuration, and its check before any training."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf

from lightning_dynprune import DynamicPruning
from lightning_dynprune.app.data import InMemoryImages
from lightning_dynprune.app.tasks.training_phase import measures_widths, new_classifier
from lightning_dynprune.base import check_share
from lightning_dynprune.engine import Pruner


def new_pruning(cfg: DictConfig) -> DynamicPruning:
    """Return the callback that the settings describe.

    Raises:
        ValueError: a setting cannot work; the message names it.
        TypeError: a setting has the wrong type.
    """
    return DynamicPruning(**_settings(cfg))


def check_pruning(cfg: DictConfig, data: InMemoryImages) -> None:
    """Raise before the dense baseline is trained if the settings cannot work, by attaching a pruner to a fresh network.

    Raises:
        ValueError: a glob matches nothing, the schedule ends after the training, ...
    """
    module = new_classifier(cfg)
    steps = -(-len(data.train_dataloader()) // cfg.trainer.get("accumulate_grad_batches", 1))
    epochs = cfg.trainer.max_epochs
    settings = _settings(cfg)
    del settings["guard"], settings["slim"]
    if measures_widths(cfg):
        settings["pattern"] = replace(settings["pattern"], round_to=1)
    pruner = Pruner(
        module,
        module.optimizer(module.network.parameters()),
        **settings,
        example_input=data.train_dataloader().images[:2],
        total_steps=steps * epochs,
        steps_per_epoch=steps,
        epochs=epochs,
    )
    pruner.close()


def _settings(cfg: DictConfig) -> dict[str, Any]:
    if cfg.sparsity is not None:
        check_share("sparsity", cfg.sparsity)
    targets = instantiate(cfg.targets, _convert_="all")
    return {
        "sparsity": cfg.sparsity,
        "strategy": instantiate(cfg.strategy),
        "threshold": _part(cfg.threshold),
        "schedule": _schedule(cfg),
        "pattern": instantiate(cfg.pattern),
        "targets": targets["include"],
        "exclude": tuple(targets["exclude"]),
        "min_kept": targets["min_kept"],
        "reconstruct": cfg.reconstruct,
        "rewind": cfg.rewind,
        "journal": OmegaConf.to_container(cfg.journal, resolve=True),
        "guard": instantiate(cfg.guard) or None,
        "slim": cfg.slim,
        "seed": cfg.seed,
    }


def _part(part: DictConfig) -> Any:
    """Return the chosen part, or settings that change the default part of the strategy."""
    if "_target_" in part:
        return instantiate(part)
    return OmegaConf.to_container(part, resolve=True)


def _schedule(cfg: DictConfig) -> Any:
    """Return the schedule; if ``sparsity`` is null, its settings, completed later by the sparsities of the targets."""
    if cfg.schedule.get("final") is not None:
        return _part(cfg.schedule)
    settings = {str(key): value for key, value in cfg.schedule.items() if key not in ("_target_", "final")}
    return {"name": get_class(cfg.schedule._target_), **settings} if "_target_" in cfg.schedule else settings
