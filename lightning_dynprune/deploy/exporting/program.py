"""Trace a model once with ``torch.export``, in the same way for every format."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram

from lightning_dynprune.base import map_tensors
from lightning_dynprune.coupling import isolated
from lightning_dynprune.deploy.exporting.base import ExportError, error_summary
from lightning_dynprune.deploy.exporting.example import Example


@contextmanager
def prepared_for_export(model: nn.Module) -> Iterator[None]:
    """Prepare a model for export inside the ``with`` block, and restore it afterwards.

    The model is in eval mode without gradients, and its tensors are contiguous, which converters require.

    Raises:
        ValueError: a tensor is not on the CPU.
    """
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.device.type != "cpu":
            raise ValueError(f"{name} is on {tensor.device}; exports are checked on the CPU, so give model.cpu()")
    moved: list[tuple[Tensor, Tensor]] = []
    try:
        with isolated(model), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            for tensor in (*model.parameters(), *model.buffers()):
                if not tensor.is_contiguous():
                    moved.append((tensor, tensor.data))
                    tensor.data = tensor.data.contiguous()
            yield
    finally:
        for tensor, data in moved:
            tensor.data = data


def trace(model: nn.Module, example: Example, *, dynamic_batch: bool, largest_batch: int | None) -> ExportedProgram:
    """Return a model as a program of ``torch.export``; call it inside :func:`prepared_for_export`.

    Args:
        model: the network.
        example: inputs of the traced call.
        dynamic_batch: let the first dimension of every input have any size, the same for all inputs.
        largest_batch: maximum batch size; the example is traced at this size, because some converters plan memory by
            it.

    Raises:
        ExportError: the model cannot be traced, or not for every batch size.
    """
    shapes = None
    if dynamic_batch:
        example = example.repeated(largest_batch or max(2, example.batch or 2))
        axis = Dim("batch", min=1, max=largest_batch)
        named = inspect.signature(model.forward).bind(*example.args, **example.kwargs).arguments
        shapes = map_tensors(lambda _: {0: axis}, dict(named))
    try:
        program = torch.export.export(model, example.args, dict(example.kwargs), dynamic_shapes=shapes)
    except Exception as error:
        advice = "; give dynamic_batch=False where one batch size will do" if dynamic_batch else ""
        raise ExportError(f"the model cannot be traced: {error_summary(error)}{advice}") from error
    for module in program.graph_module.modules():
        if isinstance(module, fx.GraphModule):
            for node in module.graph.nodes:
                # Stack traces hold paths of this machine, which converters would write into the file.
                node.meta.pop("stack_trace", None)
    return program
