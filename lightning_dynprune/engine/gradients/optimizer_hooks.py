"""Hooks that run just before and just after an optimizer steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch.optim import Optimizer


class OptimizerHooks:
    """Calls a function before each step of an optimizer, once its gradients are there, and another one after it.

    A step that is given a closure runs its forward and backward pass inside, as in Lightning's automatic optimization.
    ``before`` is then called after the closure; where the closure is evaluated again, ``after`` is called first. A step
    that a gradient scaler skips calls neither.

    Args:
        optimizers: torch optimizers.
        before: is given the optimizer.
        after: is given the optimizer.
    """

    def __init__(
        self, optimizers: Sequence[Optimizer], before: Callable[[Optimizer], None], after: Callable[[Optimizer], None]
    ) -> None:
        self._before, self._after = before, after
        self._handles = [optimizer.register_step_pre_hook(self._on_step) for optimizer in optimizers]
        self._handles += [optimizer.register_step_post_hook(lambda o, *_: after(o)) for optimizer in optimizers]

    def __getstate__(self) -> dict[str, Any]:
        """Return the state of a copy, which has no hooks, as copies of optimizers have none either."""
        return {**vars(self), "_handles": []}

    def close(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _on_step(
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
