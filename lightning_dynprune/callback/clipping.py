"""The moment before Lightning clips gradients by their norm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from torch.optim import Optimizer

METHOD = "clip_gradients"


class Handle(Protocol):
    """What watches until it is removed."""

    def remove(self) -> None:
        """Watch no longer."""


class Clipping:
    """Stands for the ``clip_gradients`` of a precision plugin, and calls what waits for it first.

    All of Lightning's clipping comes by there, also ``self.clip_gradients`` in manual optimization, which comes before
    any event that a callback is told of.

    Args:
        plugin: of a Trainer; its own method is back in place once nothing waits.
    """

    def __init__(self, plugin: Any) -> None:
        self.plugin, self.clip = plugin, getattr(plugin, METHOD)
        self.waiting: list[_Waiting] = []

    def __call__(self, optimizer: Optimizer, clip_val: float = 0.0, gradient_clip_algorithm: str = "norm") -> None:
        """Clip, after what waits for it where it is by norm."""
        if clip_val > 0 and gradient_clip_algorithm == "norm":
            for one in self.waiting:
                one.before(optimizer)
        self.clip(optimizer, clip_val=clip_val, gradient_clip_algorithm=gradient_clip_algorithm)


class _Waiting:
    def __init__(self, clipping: Clipping, before: Callable[[Optimizer], None]) -> None:
        self.clipping, self.before = clipping, before

    def remove(self) -> None:
        """Wait no longer."""
        waiting = self.clipping.waiting
        if self in waiting:
            waiting.remove(self)
            if not waiting:
                delattr(self.clipping.plugin, METHOD)


def before_clipping(plugin: Any, before: Callable[[Optimizer], None]) -> Handle:
    """Call ``before`` each time a precision plugin is about to clip by norm.

    Args:
        plugin: of a Trainer.
        before: takes the optimizer whose gradients are clipped.

    Returns:
        What ends it.

    Example:
        >>> class Plugin:
        ...     def clip_gradients(self, optimizer, clip_val=0.0, gradient_clip_algorithm="norm"):
        ...         print("clipped at", clip_val)
        >>> plugin = Plugin()
        >>> handle = before_clipping(plugin, lambda optimizer: print("before"))
        >>> plugin.clip_gradients(None, 0.5)
        before
        clipped at 0.5
        >>> handle.remove()
        >>> plugin.clip_gradients(None, 0.5)
        clipped at 0.5
    """
    clipping = getattr(plugin, METHOD)
    if not isinstance(clipping, Clipping):
        clipping = Clipping(plugin)
        setattr(plugin, METHOD, clipping)
    waiting = _Waiting(clipping, before)
    clipping.waiting.append(waiting)
    return waiting
