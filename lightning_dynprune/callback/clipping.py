"""A hook that runs before Lightning clips gradients by their norm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from torch.optim import Optimizer

from lightning_dynprune.callback.compat import clip_method, replace_clip_method, restore_clip_method


class Handle(Protocol):
    """Removes a hook."""

    def remove(self) -> None:
        """Remove the hook."""


class HookedClipping:
    """Replaces a precision plugin's ``clip_gradients`` and calls hooks before it.

    All gradient clipping of Lightning goes through this method, also ``self.clip_gradients`` in manual optimization,
    which no callback event precedes.

    Args:
        plugin: precision plugin of a Trainer; it gets its own method back when the last hook is removed.
    """

    def __init__(self, plugin: Any) -> None:
        self.plugin, self.clip = plugin, clip_method(plugin)
        self.hooks: list[_Hook] = []

    def __call__(self, optimizer: Optimizer, clip_val: float = 0.0, gradient_clip_algorithm: str = "norm") -> None:
        """Call the hooks if gradients are clipped by norm, and clip."""
        if clip_val > 0 and gradient_clip_algorithm == "norm":
            for hook in self.hooks:
                hook.function(optimizer)
        self.clip(optimizer, clip_val=clip_val, gradient_clip_algorithm=gradient_clip_algorithm)


class _Hook:
    """One hook of a :class:`HookedClipping`."""

    def __init__(self, clipping: HookedClipping, function: Callable[[Optimizer], None]) -> None:
        self.clipping, self.function = clipping, function

    def remove(self) -> None:
        """Remove the hook; with the last one the plugin gets its own method back."""
        hooks = self.clipping.hooks
        if self in hooks:
            hooks.remove(self)
            if not hooks:
                restore_clip_method(self.clipping.plugin)


def before_clipping(plugin: Any, function: Callable[[Optimizer], None]) -> Handle:
    """Call a function each time a precision plugin is about to clip gradients by norm.

    Args:
        plugin: precision plugin of a Trainer.
        function: takes the optimizer whose gradients are clipped.

    Returns:
        The handle that removes the hook.

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
    clipping = clip_method(plugin)
    if not isinstance(clipping, HookedClipping):
        clipping = HookedClipping(plugin)
        replace_clip_method(plugin, clipping)
    hook = _Hook(clipping, function)
    clipping.hooks.append(hook)
    return hook
