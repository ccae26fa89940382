"""The private attributes of torch and Lightning Fabric that this room reads."""

from __future__ import annotations

from torch import nn

# torch.compile keeps the module it compiled as `_orig_mod`, Lightning Fabric the module it set up as
# `_original_module`. If one of them goes, models wrapped so are pruned under prefixed names ("_orig_mod.0.weight"), and
# masks and journals no longer fit those of the plain model.
_WRAPPED_ATTRIBUTES = ("_orig_mod", "_original_module")


def wrapped_module(module: nn.Module) -> nn.Module | None:
    """Return the module inside a compiled module or a module of Lightning Fabric; None for any other module."""
    inner = (getattr(module, name, None) for name in _WRAPPED_ATTRIBUTES)
    return next((candidate for candidate in inner if isinstance(candidate, nn.Module)), None)
