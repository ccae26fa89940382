"""Python's heap, kept from being searched again and again."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def gc_frozen() -> Iterator[None]:
    """Leave what is alive now out of garbage collection meanwhile.

    Garbage is collected before every measurement, which takes half a second where many packages are loaded: longer than
    most of the measurements. Where a program has settled its heap itself, it is left as it is.

    Example:
        >>> with gc_frozen():
        ...     gc.get_freeze_count() > 0
        True
        >>> gc.get_freeze_count()
        0
    """
    if gc.get_freeze_count():
        yield
        return
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
