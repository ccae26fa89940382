"""Keep objects that are alive out of garbage collection during measurements."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def gc_frozen() -> Iterator[None]:
    """Exclude all objects alive now from garbage collection inside the ``with`` block or decorated function.

    A collection before every measurement takes half a second where many packages are loaded, longer than most of the
    measurements. If the program has called ``gc.freeze`` itself, nothing is changed.

    Example:
        >>> with gc_frozen():
        ...     gc.get_freeze_count() > 0
        True
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
