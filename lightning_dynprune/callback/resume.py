"""The pruning state that a fit begins with: of a checkpoint, an earlier fit or worker processes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

from lightning.pytorch import Trainer

from lightning_dynprune.base import validate_checkpoint_file
from lightning_dynprune.callback.worker_results import WorkerResult
from lightning_dynprune.engine import Pruner, state_for_new_fit

Beginning = Literal["anew", "pruned", "resumed"]


class ResumeState:
    """Keeps pruning state until the next fit has a pruner to load it into.

    Attributes:
        loaded: state of a checkpoint that waits for the fit to begin; None if there is none.
        worker_result: what workers returned after the last fit; None if there were none.
        is_resumed: whether the running fit continues from pruning state of a checkpoint or an earlier fit.
    """

    def __init__(self) -> None:
        self.loaded: dict[str, Any] | None = None
        self.worker_result: WorkerResult | None = None
        self.is_resumed = False

    def keep(self, state: dict[str, Any]) -> None:
        """Keep the state of a checkpoint until the fit begins."""
        self.loaded = state

    @property
    def waiting_state(self) -> dict[str, Any]:
        """The state that a checkpoint keeps while there is no pruner; empty if there is nothing to resume from."""
        return self.loaded or ({} if self.worker_result is None else self.worker_result.state)

    def begin(
        self, trainer: Trainer, pruner: Pruner, earlier: Pruner | None, load: Callable[[dict[str, Any]], None]
    ) -> Beginning:
        """Load the state that a fit begins with into its pruner.

        The state of a checkpoint goes first. Without one the masks of an earlier fit of the same parameters are kept,
        and its clock too if the Trainer continues its own.

        Args:
            trainer: in ``on_fit_start``.
            pruner: of the fit that begins.
            earlier: pruner of the callback's last fit, if it ran in this process.
            load: loads the state of a checkpoint.

        Returns:
            What the fit begins with.
        """
        beginning: Beginning = "anew"
        self.is_resumed = self.loaded is not None or earlier is not None
        if self.loaded is not None:
            load(self.loaded)
            self.loaded = None
            beginning = "resumed"
        elif earlier is not None:
            if [id(t.parameter) for t in earlier.targets] == [id(t.parameter) for t in pruner.targets]:
                state, continues = earlier.state_dict(), trainer.global_step > 0
                pruner.load_state_dict(state if continues else _as_new(pruner, state, earlier.sparsity))
                beginning = "resumed" if continues else "pruned"
        elif (result := self.worker_result) is not None and result.state["shapes"] == pruner.state_dict()["shapes"]:
            pruner.load_state_dict(_as_new(pruner, result.state, result.sparsity))
            beginning = "pruned"
        self.worker_result = None
        return beginning

    def validate_checkpoint(self, trainer: Trainer, state_key: str) -> None:
        """Raise if the checkpoint that the fit continues from is damaged, or holds no pruning state.

        Args:
            trainer: in ``on_train_start``.
            state_key: of the callback.

        Raises:
            ValueError: naming the file.
        """
        path = trainer.ckpt_path
        if path is None:
            return
        validate_checkpoint_file(path, "ckpt_path")
        if trainer.global_step > 0 and not self.is_resumed:
            raise ValueError(
                f"ckpt_path={path} holds no pruning state under {state_key!r}, so its training cannot be resumed. To "
                "prune a network that was trained without this callback, load its weights alone (load_state_dict with "
                "the 'state_dict' of the checkpoint) and fit without ckpt_path, so that the schedule spans the "
                "training that follows"
            )


def loading_together(pruner: Pruner) -> AbstractContextManager[None]:
    """Return the block in which state is loaded, which raises in all processes if it raises in one.

    Where parameters are sharded it does not, as loading them sends messages itself.

    Args:
        pruner: of the fit.
    """
    return nullcontext() if pruner.masks.shard_ranks is not None else pruner.ranks.raise_together()


def _as_new(pruner: Pruner, state: dict[str, Any], previous_sparsity: float) -> dict[str, Any]:
    """Return a state with the masks of an earlier training, and the clock and journal of a new one."""
    return state_for_new_fit(state, pruner.state_dict(), previous_sparsity)
