"""What holds for the whole suite."""

from __future__ import annotations

import gc
from typing import Any

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse names of tests that hold an address of memory: no two workers would agree on what to run."""
    unstable = [item.nodeid for item in items if " at 0x" in item.nodeid]
    if unstable:
        raise pytest.UsageError(f"{unstable[0]}: the name holds an address of memory; give ids= to parametrize")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Take what imports and the collection of tests have made out of every later garbage collection.

    They are a million objects that live until the end: going through them again took a third of a second each time,
    and each timing of calls begins with a collection.
    """
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each worker of ``pytest -n`` whole files one after the other, and those of a slower worker at the end.

    The default hands out a few tests at a time, so that every worker sets up what the tests of a file share.
    """
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log) if config.getvalue("dist") == "load" else None
