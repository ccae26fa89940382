"""What holds for the whole suite."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse names of tests that hold an address of memory: no two workers would agree on what to run."""
    unstable = [item.nodeid for item in items if " at 0x" in item.nodeid]
    if unstable:
        raise pytest.UsageError(f"{unstable[0]}: the name holds an address of memory; give ids= to parametrize")


class FreezeAtEveryFile:
    """Takes what is alive when a file of tests begins out of every garbage collection during that file.

    Imports and the collection of tests alone make a million objects that live until the end: going through them again
    took a third of a second each time, and each timing of calls begins with a collection. While tests are collected,
    no garbage is: what is imported stays.
    """

    def __init__(self) -> None:
        self._file: Path | None = None

    @pytest.hookimpl(wrapper=True)
    def pytest_collection(self) -> Iterator[None]:
        gc.disable()
        try:
            return (yield)
        finally:
            gc.enable()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        if item.path != self._file:
            self._file = item.path
            gc.collect()
            gc.freeze()


def pytest_configure(config: pytest.Config) -> None:
    """Freeze in the doctests of the package too, which the hooks of this file do not reach by themselves."""
    config.pluginmanager.register(FreezeAtEveryFile())


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each worker of ``pytest -n`` whole files one after the other, and those of a slower worker at the end.

    The default hands out a few tests at a time, so that every worker sets up what the tests of a file share.
    """
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log) if config.getvalue("dist") == "load" else None
