"""The private names of ExecuTorch do what exporting needs."""

from __future__ import annotations

import pytest

from lightning_dynprune.deploy.exporting import compat


def test_the_pool_of_threads_is_read_and_replaced():
    library = pytest.importorskip("executorch.extension.pybindings.portable_lib")
    before = compat.thread_count(library)
    assert before >= 1
    compat.set_thread_count(library, before)
    assert compat.thread_count(library) == before
