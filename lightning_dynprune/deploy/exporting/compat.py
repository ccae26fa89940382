"""The private names of ExecuTorch that exporting uses."""

from __future__ import annotations

from typing import Any


def thread_count(library: Any) -> int:
    """Return the number of threads of ExecuTorch's pool; the public runtime neither shows nor sets it.

    If this or :func:`set_thread_count` goes, latencies of ExecuTorch files are measured with another number of threads
    than those of other formats.

    Args:
        library: ``executorch.extension.pybindings.portable_lib``.
    """
    return int(library._threadpool_get_thread_count())


def set_thread_count(library: Any, threads: int) -> None:
    """Replace ExecuTorch's pool of threads; no loaded method may use the old one.

    Args:
        library: ``executorch.extension.pybindings.portable_lib``.
        threads: number of threads.
    """
    library._unsafe_reset_threadpool(threads)
