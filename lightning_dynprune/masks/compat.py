"""The private attributes of torch's optimizers that this room writes."""

from __future__ import annotations

from torch.optim import LBFGS


def reset_lbfgs(optimizer: LBFGS) -> None:
    """Clear the state of an LBFGS optimizer whose parameters have changed their size.

    LBFGS caches the number of its parameters' entries in ``_numel_cache`` and never updates it. If the attribute is
    removed or renamed, the first step after slimming fails in LBFGS with a shape error.
    """
    optimizer.state.clear()
    optimizer._numel_cache = None
