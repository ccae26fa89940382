"""How much memory a forward pass takes at its peak."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.autograd.profiler import profile

from lightning_dynprune.base import call_model
from lightning_dynprune.coupling import isolated


def peak_memory(model: nn.Module, example_input: Any) -> int:
    """Return the bytes of a model's tensors and of what a forward in eval mode holds besides them at its peak.

    What a forward holds is what torch's allocator gives it: activations, and the scratch space of operators that ask
    torch for it. On a GPU the allocator's own peak is read, on the CPU every allocation and release is followed by
    torch's profiler, so that two calls agree to the byte where the resident memory of a process would not. The inputs
    are not counted, nor what a library allocates by itself. The model is run twice, the first time to let layers
    prepare what they keep.

    Args:
        model: the network, on its device.
        example_input: a tensor, a tuple or list of arguments, or a mapping of keyword arguments, on the same device.

    Returns:
        Bytes.

    Raises:
        ValueError: the model is on another device than a CPU or a CUDA GPU.

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
    recorder: Any = profile(use_cpu=True, profile_memory=True)  # Any: torch does not say the types of what it gives
    with _remarks_off():
        recorder.__enter__()
    try:
        outputs = call_model(model, example_input)
    finally:
        with _remarks_off():
            recorder.__exit__(None, None, None)
    del outputs
    now = most = 0
    for event in recorder.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most


def _on_accelerator(model: nn.Module, example_input: Any, device: torch.device) -> int:
    torch.accelerator.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call_model(model, example_input)
    torch.accelerator.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


@contextmanager
def _remarks_off() -> Iterator[None]:
    """Keep what the profiler says at its start and end, from C++, off the terminal."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
