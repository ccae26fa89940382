"""The private attributes of torch that the checks of an attachment read."""

from __future__ import annotations

from typing import Any

from torch import nn


def children_of(module: nn.Module) -> dict[str, Any]:
    """Return the dictionary in which a module holds its children: the very object, which follows every change."""
    # Public methods return iterators over copies, and a lookup by name at every step costs ten times as much. If the
    # attribute goes, layers replaced in mid-run are not noticed.
    return module._modules


def parameters_of(module: nn.Module) -> dict[str, Any]:
    """Return the dictionary in which a module holds its own parameters: the very object, which follows every change."""
    # As above; if it goes, parameters replaced in mid-run are not noticed.
    return module._parameters
