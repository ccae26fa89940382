"""The pruning callback from settings that Hydra composed, in the program and in programs of users."""

from __future__ import annotations

from typing import Any

from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf

from lightning_dynprune import DynamicPruning
from lightning_dynprune.base import check_share


def new_callback(**settings: Any) -> DynamicPruning:
    """Return the callback that the settings under ``dynprune`` describe; ``instantiate(cfg.dynprune)`` calls this.

    Args:
        settings: those of ``dynprune/default.yaml``, each group as a mapping.

    Raises:
        ValueError: a setting cannot work; the message names it.
        TypeError: a setting has the wrong type.
    """
    cfg = OmegaConf.create(settings)
    return DynamicPruning(**callback_settings(cfg))


def callback_settings(cfg: DictConfig) -> dict[str, Any]:
    """Return the arguments of ``DynamicPruning`` that the settings describe.

    Args:
        cfg: the settings, with the groups ``strategy``, ``threshold``, ``schedule``, ``pattern``, ``targets`` and
            ``guard``.

    Raises:
        ValueError: a setting cannot work; the message names it.
        TypeError: a setting has the wrong type.
    """
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
