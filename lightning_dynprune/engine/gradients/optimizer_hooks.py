"""What happens just before and just after an optimizer steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch.optim import Optimizer


class Stepping:
    """Calls ``before`` once an optimizer has its gradients and is sure to step, and ``after`` once it has stepped.

    A step that is given a closure runs its forward and backward pass inside, as in Lightning's automatic optimization;
    ``before`` then follows the closure, with ``after`` undone for every further evaluation. Where a gradient scaler
    skips the step, neither is called.

    Args:
        optimizers: torch optimizers.
        before: takes the optimizer.
        after: takes the optimizer.
    """

    def __init__(
        self, optimizers: Sequence[Optimizer], before: Callable[[Optimizer], None], after: Callable[[Optimizer], None]
    ) -> None:
        self._before, self._after = before, after
        self._handles = [optimizer.register_step_pre_hook(self._on_stepping) for optimizer in optimizers]
        self._handles += [optimizer.register_step_post_hook(lambda o, *_: after(o)) for optimizer in optimizers]

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy keeps: it watches no optimizer, for copies of optimizers have no hooks."""
        return {**vars(self), "_handles": []}

    def close(self) -> None:
        """Watch no longer."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _on_stepping(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if closure is None:
            self._before(optimizer)
            return None

        def evaluate() -> Any:
            self._after(optimizer)
            loss = closure()
            self._before(optimizer)
            return loss

        return args[:1], {**kwargs, "closure": evaluate}
