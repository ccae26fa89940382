"""The accuracy guard in a Trainer: its metric after a validation, and the journal that it needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info

from lightning_dynprune.callback.fit_horizon import validations_left
from lightning_dynprune.callback.resume import Beginning
from lightning_dynprune.engine import AccuracyGuard, Pruner


def check_guard(guard: AccuracyGuard | None) -> None:
    """Raise if the setting ``guard`` is of another type.

    Raises:
        TypeError: naming the value.
    """
    if guard is not None and not isinstance(guard, AccuracyGuard):
        raise TypeError(f"guard={guard!r} is not accepted; give an AccuracyGuard or None")


def journal_for_guard(journal: bool | Mapping[str, Any], guard: AccuracyGuard | None) -> bool | Mapping[str, Any]:
    """Return the setting ``journal``, with ``remember_values`` if there is a guard, which restores values.

    Args:
        journal: the setting.
        guard: the guard, or None.

    Raises:
        ValueError: there is a guard and no journal.
    """
    if guard is None:
        return journal
    if journal is False:
        raise ValueError("journal=False does not go with a guard, which restores masks from it; give journal=True")
    return {"remember_values": True, **(journal if isinstance(journal, Mapping) else {})}


def begin_guard(guard: AccuracyGuard, beginning: Beginning, worker_state: Mapping[str, Any] | None) -> None:
    """Let the guard forget an earlier fit, unless the fit that begins continues it.

    Args:
        guard: of the pruning.
        beginning: what the fit begins with.
        worker_state: what workers returned after the last fit, in whose processes the guard was; None: there were none.
    """
    if beginning == "resumed":
        return
    if beginning == "pruned" and worker_state is not None and "guard" in worker_state:
        guard.load_state_dict(worker_state["guard"])
    guard.begin_fit(keep_reference=beginning == "pruned")


def judge_validation(guard: AccuracyGuard, trainer: Trainer, pruner: Pruner) -> bool:
    """Pass the validated metric to the guard, which may pause the schedule or restore earlier masks.

    Args:
        guard: of the pruning.
        trainer: in ``on_validation_end`` of a fit.
        pruner: of the fit.

    Returns:
        Whether the guard has decided anything.

    Raises:
        ValueError: the metric was not logged.
    """
    metrics = trainer.callback_metrics
    with pruner.ranks.raise_together():
        if guard.monitor not in metrics:
            raise ValueError(
                f"guard: monitor={guard.monitor!r} was not logged in validation; there are "
                f"{', '.join(sorted(metrics)) or 'none'}"
            )
    # Processes that judged by their own share of the data would decide differently.
    value = float(trainer.strategy.reduce(metrics[guard.monitor], reduce_op="mean"))
    decision = guard.judge(value, pruner, validations_left(trainer))
    if decision:
        rank_zero_info(f"dynprune: {decision}")
    return bool(decision)


def load_with_guard(guard: AccuracyGuard | None, state: Mapping[str, Any], pruner: Pruner) -> None:
    """Load the state of a checkpoint into a pruner and its guard; nothing is changed if either part is damaged.

    Args:
        guard: of the pruning; None: there is none.
        state: of the callback.
        pruner: of the fit.

    Raises:
        ValueError: the state is damaged, or belongs to another pruning.
    """
    saved = state.get("guard")
    if guard is not None and saved is not None:
        guard.check_state_dict(saved)
    pruner.load_state_dict(state)
    if guard is not None and saved is not None:
        guard.load_state_dict(saved)
    elif guard is not None:
        guard.begin_fit()
