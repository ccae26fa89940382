"""Run a model on an example without changing its state."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lightning_dynprune.base import call_model
from lightning_dynprune.coupling.group import CouplingError

_SEED = 0


def run_example(model: nn.Module, example_input: Any) -> Any:
    """Return a model's outputs for an example; random numbers drawn in the forward are the same each time.

    Args:
        model: the network.
        example_input: a tensor, a tuple or list of arguments, or a mapping of keyword arguments.

    Raises:
        CouplingError: the forward raised; the message names the innermost module that was running.
    """
    torch.manual_seed(_SEED)
    try:
        return call_model(model, example_input)
    except CouplingError:
        raise
    except Exception as error:
        raise CouplingError(
            f"example_input: {_failing_module(model, example_input)} raised {type(error).__name__}: {error}; give a "
            "tensor, a tuple of arguments or a dict of keyword arguments that the model runs on, on the model's own "
            "device"
        ) from error


def _failing_module(model: nn.Module, example_input: Any) -> str:
    """Return the innermost module whose forward raises for an example."""
    running = [("", model)]
    handles = []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(lambda m, _, name=name: running.append((name, m))))
        handles.append(module.register_forward_hook(lambda *_: running.pop() and None))
    try:
        torch.manual_seed(_SEED)
        call_model(model, example_input)
    except Exception:
        return _named(*running[-1])
    finally:
        for handle in handles:
            handle.remove()
    return type(model).__name__


@contextmanager
def isolated(model: nn.Module) -> Iterator[None]:
    """Put a model into eval mode, and restore modes, buffers, ``requires_grad`` and random states afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    devices = {parameter.device for parameter, _ in flags if parameter.device.type == "cuda"}
    try:
        # Inference tensors cannot be traced. Leaving inference mode enables gradients, so their mode is set again.
        grad = torch.is_grad_enabled()
        forked = torch.random.fork_rng(devices=[device.index for device in devices])
        with forked, torch.inference_mode(False), torch.set_grad_enabled(grad):
            # Setting an attribute of a module takes time, of which large networks would notice a lot.
            if any(training for _, training in modes):
                model.eval()
            yield
    finally:
        for module, training in modes:
            if module.training != training:
                module.training = training
        for parameter, flag in flags:
            if parameter.requires_grad != flag:
                parameter.requires_grad_(flag)
        with torch.no_grad():
            for buffer, value in buffers:
                if not same(buffer, value):
                    buffer.copy_(value)


def same(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors hold the same values, NaN equal to NaN."""
    return torch.equal(a, b) or (a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all()))


def _named(name: str, module: nn.Module) -> str:
    return f"module {name!r} ({type(module).__name__})" if name else type(module).__name__
