"""The private names of torch that deploy uses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm as InstanceNorm

__all__ = [
    "ATTENTION_OPERATORS",
    "EMBEDDING_BAG_OPERATORS",
    "TRILINEAR_OPERATOR",
    "BatchNorm",
    "InstanceNorm",
    "has_forward_hooks",
    "recorded_allocations",
    "wants_tensors",
    "without_example_inputs",
]

# BatchNorm and InstanceNorm above are the common bases of the public classes, of SyncBatchNorm and of classes of other
# libraries. If they go, list the public classes in their place.

# Operators that torch calls below public functions, and that its flop counter does not know. If one goes, count_macs
# misses the work of embedding_bag, of attention on the CPU, or of nn.Bilinear.
EMBEDDING_BAG_OPERATORS = (torch.ops.aten._embedding_bag, torch.ops.aten._embedding_bag_forward_only)
ATTENTION_OPERATORS = (
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu,
    torch.ops.aten._scaled_dot_product_fused_attention_overrideable,
)
TRILINEAR_OPERATOR = torch.ops.aten._trilinear


def wants_tensors(flops: Callable[..., int]) -> Callable[..., int]:
    """Mark a function for torch's flop counter that takes tensors instead of shapes.

    If the mark goes, sparse products can no longer be counted by their stored entries.
    """
    flops._get_raw = True  # type: ignore[attr-defined]
    return flops


def has_forward_hooks(module: nn.Module) -> bool:
    """Return whether a module has forward hooks; torch has no public function for it.

    If it goes, kernels would replace layers whose hooks would then no longer run.
    """
    return bool(module._forward_hooks or module._forward_pre_hooks)


@contextmanager
def without_example_inputs(program: ExportedProgram) -> Iterator[None]:
    """Take the example inputs out of a program inside the ``with`` block.

    ``torch.export.save`` would pickle them. Early releases of torch do not accept None through the public setter.
    """
    inputs = program._example_inputs
    program._example_inputs = None
    try:
        yield
    finally:
        program._example_inputs = inputs


def recorded_allocations(profiler: Any) -> list[int]:
    """Return the bytes of each allocation (positive) and release (negative) that a profiler recorded, in order.

    The public tables of ``torch.autograd.profiler.profile`` hold sums only. If its raw events go, peak memory cannot
    be measured on the CPU.
    """
    return [event.nbytes() for event in profiler.kineto_results.events() if event.name() == "[memory]"]
