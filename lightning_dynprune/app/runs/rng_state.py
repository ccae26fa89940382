"""The global random state of Python, NumPy and torch, saved and restored."""

from __future__ import annotations

import random
from typing import Any, cast

import numpy as np
import torch


def random_state() -> dict[str, Any]:
    """Return the state of every global generator as plain values and tensors, loadable with ``weights_only=True``.

    Example:
        >>> state = random_state()
        >>> first = torch.rand(1).item()
        >>> restore_random_state(state)
        >>> torch.rand(1).item() == first
        True
    """
    name, keys, position, has_gauss, cached = cast("tuple[Any, ...]", np.random.get_state(legacy=True))
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Set every global generator to a state returned by ``random_state``.

    Raises:
        ValueError: the state is damaged.
    """
    try:
        random.setstate(state["python"])
        name, keys, position, has_gauss, cached = state["numpy"]
        np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
        torch.set_rng_state(state["torch"].cpu())
        devices = [device.cpu() for device in state["cuda"]]
    except (AttributeError, KeyError, OverflowError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"checkpoint: the random state is damaged: {error}") from error
    if devices:
        torch.cuda.set_rng_state_all(devices)
