"""The pruning callback made from the configuration, and its check before any training."""

from __future__ import annotations

from dataclasses import replace

from omegaconf import DictConfig

from lightning_dynprune import DynamicPruning
from lightning_dynprune.app.data import InMemoryImages
from lightning_dynprune.app.hydra_apps import callback_settings
from lightning_dynprune.app.tasks.training_phase import measures_widths, new_classifier
from lightning_dynprune.engine import Pruner


def new_pruning(cfg: DictConfig) -> DynamicPruning:
    """Return the callback that the settings describe.

    Raises:
        ValueError: a setting cannot work; the message names it.
        TypeError: a setting has the wrong type.
    """
    return DynamicPruning(**callback_settings(cfg))


def check_pruning(cfg: DictConfig, data: InMemoryImages) -> None:
    """Raise before the dense baseline is trained if the settings cannot work, by attaching a pruner to a fresh network.

    Raises:
        ValueError: a glob matches nothing, the schedule ends after the training, ...
    """
    module = new_classifier(cfg)
    steps = -(-len(data.train_dataloader()) // cfg.trainer.get("accumulate_grad_batches", 1))
    epochs = cfg.trainer.max_epochs
    settings = callback_settings(cfg)
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
