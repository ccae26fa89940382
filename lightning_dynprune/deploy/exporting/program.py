"""A model traced once, the same way for every format."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.utils import _pytree

from lightning_dynprune.coupling import isolated
from lightning_dynprune.deploy.exporting.base import ExportError, error_summary
from lightning_dynprune.deploy.exporting.example import Example


@contextmanager
def ready(model: nn.Module) -> Iterator[None]:
    """Put a model into the state that it is exported in, and back as it was.

    It is in eval mode and without gradients, and its tensors lie in row-major order, as converters expect them.

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
    """Return a model, made :func:`ready`, as a program of ``torch.export``.

    Args:
        model: the network.
        example: inputs it runs on.
        dynamic_batch: the first axis of every input may have any size, the same for all.
        largest_batch: its largest; the example is traced at it, for some converters plan memory by the example.

    Raises:
        ExportError: the model cannot be traced, or not for any batch.
    """
    shapes = None
    if dynamic_batch:
        example = example.repeated(largest_batch or max(2, example.batch or 2))
        axis = Dim("batch", min=1, max=largest_batch)
        named = inspect.signature(model.forward).bind(*example.args, **example.kwargs).arguments
        shapes = _pytree.tree_map(lambda _: {0: axis}, dict(named))
    try:
        program = torch.export.export(model, example.args, dict(example.kwargs), dynamic_shapes=shapes)
    except Exception as error:
        advice = "; give dynamic_batch=False where one batch size will do" if dynamic_batch else ""
        raise ExportError(f"the model cannot be traced: {error_summary(error)}{advice}") from error
    for module in program.graph_module.modules():
        if isinstance(module, fx.GraphModule):
            for node in module.graph.nodes:
                # Paths of the machine that traced it, which converters would write into the file.
                node.meta.pop("stack_trace", None)
    return program
