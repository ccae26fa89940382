"""Checks that pruning can run in a Trainer: its strategy and its other callbacks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from lightning_dynprune.base import name_some
from lightning_dynprune.callback.compat import (
    averaged_model,
    callbacks_of,
    flattening_strategy,
    parameters_of_model_pruning,
    unfreezes_layers,
)
from lightning_dynprune.engine import check_no_flat_parameters


def check_trainer(trainer: Any, frozen: Sequence[str], slim: str | None) -> None:
    """Raise if the Trainer's strategy or another callback does not go with pruning; no pruner is needed.

    Args:
        trainer: in ``on_fit_start``.
        frozen: names of parameters that would be targets if they were not frozen.
        slim: when pruned units are taken out of the model: "end", "update" or None.

    Raises:
        ValueError: naming the setting and what is accepted.
    """
    check_strategy(trainer)
    check_finetuning(trainer, frozen)
    check_averaging(trainer, slim)


def check_strategy(trainer: Any) -> None:
    """Raise if the Trainer's strategy flattens parameters, so that none keeps its own shape.

    Args:
        trainer: with its strategy set up.

    Raises:
        ValueError: naming the strategy, or a parameter that is flattened already.
    """
    if isinstance(trainer.model, nn.Module):
        check_no_flat_parameters(trainer.model)
    if (strategy := flattening_strategy(trainer)) is not None:
        raise ValueError(
            f"Trainer(strategy={strategy}) concatenates parameters and cuts them at any place, so that no target is "
            "left to prune; use ModelParallelStrategy with fully_shard in configure_model (FSDP2), or DDPStrategy"
        )


def check_finetuning(trainer: Any, frozen: Sequence[str]) -> None:
    """Raise if another callback will unfreeze parameters during the fit that would be targets.

    Args:
        trainer: whose callbacks are checked.
        frozen: names of the parameters that would be targets if they were trained.

    Raises:
        ValueError: naming one of them.
    """
    for callback in callbacks_of(trainer) if frozen else ():
        if unfreezes_layers(callback):
            raise ValueError(
                f"{name_some(frozen, most=1)}: frozen now, and {type(callback).__name__} unfreezes layers during the "
                "fit, when the targets are fixed and the schedule may have ended. Exclude what it freezes, for example "
                f"by exclude='{frozen[0].rpartition('.')[0] or '*'}.*', or unfreeze in one fit and prune in the next"
            )


def check_averaging(trainer: Any, slim: str | None) -> None:
    """Raise if the model is to be slimmed while another callback averages its weights.

    Args:
        trainer: whose callbacks are checked, after their ``setup``.
        slim: the setting; None: the model keeps its shapes.

    Raises:
        ValueError: naming the other callback.
    """
    for callback in callbacks_of(trainer) if slim is not None else ():
        if averaged_model(callback) is not None:
            kind = type(callback).__name__
            raise ValueError(
                f"slim={slim!r} does not go with {kind}, which averages tensors of one shape; leave slim out, and make "
                "the averaged model smaller after training, by lightning_dynprune.deploy.slim"
            )


def check_model_pruning(trainer: Any, targets: Iterable[tuple[str, nn.Parameter]]) -> None:
    """Raise if Lightning's own ``ModelPruning`` prunes a target too.

    Args:
        trainer: whose callbacks are checked, after their ``setup``.
        targets: name and parameter of each target.

    Raises:
        ValueError: naming the target and the other callback.
    """
    names = {parameter: name for name, parameter in targets}
    for callback in callbacks_of(trainer):
        for module, attribute in parameters_of_model_pruning(callback):
            if (parameter := getattr(module, attribute)) in names:
                kind = type(callback).__name__
                raise ValueError(
                    f"{names[parameter]} is pruned by {kind} already, which replaces the parameter by a copy; leave "
                    f"{kind} out, or give the two disjoint parameters"
                )
