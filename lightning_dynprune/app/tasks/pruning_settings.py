"""The pruning callback made from the configuration, and its check before any training."""

from __future__ import annotations

from dataclasses import replace

from omegaconf import DictConfig, OmegaConf
from torch import nn

from lightning_dynprune import Distillation, DynamicPruning
from lightning_dynprune.app.data import InMemoryImages
from lightning_dynprune.app.hydra_apps import callback_settings
from lightning_dynprune.app.tasks.training_phase import measures_widths, new_classifier
from lightning_dynprune.engine import Pruner


def new_pruning(cfg: DictConfig, teacher: nn.Module | str = "dense") -> DynamicPruning:
    """Return the callback that the settings describe.

    Args:
        cfg: the settings.
        teacher: the dense control, where ``distill`` is set.

    Raises:
        ValueError: a setting cannot work; the message names it.
        TypeError: a setting has the wrong type.
    """
    return DynamicPruning(**callback_settings(cfg), distill=_distillation(cfg, teacher))


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


def _distillation(cfg: DictConfig, teacher: nn.Module | str) -> Distillation | None:
    settings = OmegaConf.to_container(cfg.distill, resolve=True) or None
    if not isinstance(settings, dict):
        return None
    if not cfg.dense:
        raise ValueError("distill=dense needs dense=true, as the dense control is the teacher; dense=false is given")
    return Distillation(teacher, **{str(name): value for name, value in settings.items()})
