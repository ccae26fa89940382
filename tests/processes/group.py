"""Runs a function in several processes that form a gloo group, and brings back what each returns."""

from __future__ import annotations

import io
import multiprocessing
import os
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

_TIMEOUT = 600.0


def together(size: int, function: Callable[..., Any], folder: Path, *args: Any) -> list[Any]:
    """Return what ``function(rank, *args)`` returns in each of ``size`` processes, tensors and plain values.

    Args:
        size: how many processes.
        function: called in each of them, with the default group initialised.
        folder: an empty folder, where the processes find each other.
        args: passed on.

    Raises:
        AssertionError: a process raised; its traceback is quoted.
    """
    context = multiprocessing.get_context("fork")
    ends: list[Connection] = []
    processes = []
    for rank in range(size):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(
            target=_work, args=(rank, size, function, folder / "group", theirs, args), daemon=True
        )
        process.start()
        theirs.close()
        ends.append(ours)
        processes.append(process)
    results: dict[int, Any] = {}
    errors = []
    try:
        while len(results) + len(errors) < size:
            open_ends = [end for rank, end in enumerate(ends) if rank not in results]
            ready = wait(open_ends, timeout=_TIMEOUT)
            assert ready, f"{size - len(results)} of {size} processes said nothing in {_TIMEOUT:g} s"
            for end in ready:
                rank = ends.index(end)
                kind, value = end.recv()
                results[rank] = value
                if kind == "error":
                    errors.append(f"rank {rank}: {value}")
                    break
            if errors:
                break
    finally:
        for process in processes:
            process.join(timeout=1 if errors else 10)
            process.kill()
    assert not errors, "\n".join(errors)
    return [torch.load(io.BytesIO(results[rank]), weights_only=True) for rank in range(size)]


def _work(
    rank: int, size: int, function: Callable[..., Any], meeting: Path, end: Connection, args: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=str(rank))
    try:
        store = dist.FileStore(str(meeting), size)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=timedelta(seconds=300))
        buffer = io.BytesIO()
        torch.save(function(rank, *args), buffer)
        end.send(("result", buffer.getvalue()))
        dist.barrier()
        dist.destroy_process_group()
    except BaseException:
        end.send(("error", traceback.format_exc()))
    finally:
        end.close()
        os._exit(0)  # what pytest registered to be done at exit is not this process's to do
