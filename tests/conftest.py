"""What holds for the whole suite."""

from __future__ import annotations

import gc

import pytest


def pytest_collection_finish(session: pytest.Session) -> None:
    """Take what imports and the collection of tests have made out of every later garbage collection.

    They are a million objects that live until the end: going through them again took a third of a second each time,
    and each timing of calls begins with a collection.
    """
    gc.collect()
    gc.freeze()
