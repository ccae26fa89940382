"""Measure the peak memory of a forward pass."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from typing import Any

import torch
from torch import nn
from torch.autograd.profiler import profile

from lightning_dynprune.base import call_model
from lightning_dynprune.coupling import isolated
from lightning_dynprune.deploy.compat import recorded_allocations


def peak_memory(model: nn.Module, example_input: Any) -> int:
    """Return the bytes of a model's tensors plus the peak of what a forward pass in eval mode allocates.

    Counted are allocations through torch's allocator: activations, and scratch memory that operators request from
    torch. On a GPU this is the allocator's own peak; on the CPU torch's profiler records every allocation and release,
    so two calls agree to the byte, which the resident memory of a process would not. Inputs, and memory that other
    libraries allocate themselves, are not counted. The model runs twice; the first run lets layers prepare their
    caches.

    Args:
        model: the network, on its device.
        example_input: a tensor, a tuple or list of arguments, or a mapping of keyword arguments, on the same device.

    Returns:
        Bytes.

    Raises:
        ValueError: the model is neither on a CPU nor on a CUDA GPU.

    Example:
        >>> net = nn.Linear(1000, 1000, bias=False)
        >>> peak_memory(net, torch.zeros(10, 1000))  # a million weights and ten thousand outputs
        4040000
    """
    tensors = [*model.parameters(), *model.buffers()]
    storages = [tensor.untyped_storage() for tensor in tensors]
    held = {storage.data_ptr(): storage.nbytes() for storage in storages}
    device = tensors[0].device if tensors else torch.device("cpu")
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"peak memory is read on cpu and cuda; the model is on {device}")
    with torch.inference_mode(False), torch.no_grad(), isolated(model):
        call_model(model, example_input)
        peak = _on_cpu if device.type == "cpu" else _on_accelerator
        return sum(held.values()) + peak(model, example_input, device)


def _on_cpu(model: nn.Module, example_input: Any, _: torch.device) -> int:
    recorder: Any = profile(use_cpu=True, profile_memory=True)  # its methods are untyped
    with _stderr_suppressed():
        recorder.__enter__()
    try:
        outputs = call_model(model, example_input)
    finally:
        with _stderr_suppressed():
            recorder.__exit__(None, None, None)
    del outputs
    return max(accumulate(recorded_allocations(recorder), initial=0))


def _on_accelerator(model: nn.Module, example_input: Any, device: torch.device) -> int:
    torch.accelerator.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call_model(model, example_input)
    torch.accelerator.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


@contextmanager
def _stderr_suppressed() -> Iterator[None]:
    """Suppress the messages that the profiler prints from C++ at its start and end."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
