"""Other callbacks of the same Trainer: which of them pruning does not go with, said before the first batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

from torch import nn

from lightning_dynprune.base import name_some
from lightning_dynprune.callback.averages import averages_of


def is_a(callback: Any, name: str) -> bool:
    """Return whether a callback is of the class of that name in ``lightning`` or ``pytorch_lightning``."""
    return any(kind.__name__ == name and "lightning" in kind.__module__ for kind in type(callback).__mro__)


def refuse_finetuning(callbacks: Iterable[Any], frozen: Sequence[str]) -> None:
    """Raise where targets are frozen that a callback will unfreeze in mid-run.

    Args:
        callbacks: of the Trainer.
        frozen: names of the parameters that would be targets if they were trained.

    Raises:
        ValueError: naming one of them.
    """
    for callback in callbacks:
        if frozen and is_a(callback, "BaseFinetuning"):
            raise ValueError(
                f"{name_some(frozen, most=1)}: frozen now, and {type(callback).__name__} unfreezes in mid-run, when "
                "what is pruned is settled and its schedule may be over. Exclude what it freezes, as by "
                f"exclude='{frozen[0].rpartition('.')[0] or '*'}.*', or unfreeze in one fit and prune in the next"
            )


def refuse_neighbours(callbacks: Sequence[Any], own: Any, targets: Iterable[tuple[str, nn.Parameter]]) -> None:
    """Raise where another callback changes what pruning relies on.

    Args:
        callbacks: of the Trainer.
        own: the one that prunes.
        targets: name and parameter of what it prunes.

    Raises:
        ValueError: another one prunes the same parameters, or averages what this one slims.
    """
    names = {parameter: name for name, parameter in targets}
    for callback in callbacks:
        kind = type(callback).__name__
        if is_a(callback, "ModelPruning"):
            for module, local in callback._parameters_to_prune:
                if (parameter := getattr(module, local)) in names:
                    raise ValueError(
                        f"{names[parameter]} is pruned by {kind} already, which puts a copy in the parameter's place; "
                        f"leave {kind} out, or give the two disjoint parameters"
                    )
        if own.slim is not None and averages_of([callback]):
            raise ValueError(
                f"slim={own.slim!r} does not go with {kind}, which averages tensors of one shape; leave slim out, and "
                "make the averaged model smaller after training, by lightning_dynprune.deploy.slimming.removal"
            )


def accumulation(callbacks: Iterable[Any]) -> Callable[[int], int] | None:
    """Return what says over how many batches an epoch accumulates, where a callback changes that between epochs."""
    for callback in callbacks:
        if is_a(callback, "GradientAccumulationScheduler"):
            return cast("Callable[[int], int]", callback.get_accumulate_grad_batches)
    return None
