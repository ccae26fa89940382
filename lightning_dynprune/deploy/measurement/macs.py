"""Count the multiply-adds that a forward pass executes, operator by operator."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lightning_dynprune.coupling import isolated, run_example
from lightning_dynprune.deploy.compat import (
    ATTENTION_OPERATORS,
    EMBEDDING_BAG_OPERATORS,
    TRILINEAR_OPERATOR,
    wants_tensors,
)

_SPARSE = (torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc, torch.sparse_coo)


def count_macs(model: nn.Module, example_input: Any) -> int:
    """Return the multiply-adds of matrix products, convolutions and attention in one forward pass in eval mode.

    The count covers every operator that torch executes, whether a layer, a subclass, a functional call or attention
    called it. A dense operator counts its zeros, because it multiplies by them; a sparse one counts its stored entries.
    Elementwise operations, norms and pooling are not counted. A causal mask counts as if nothing were masked, 2:4
    sparsity as if it were dense.

    The model runs once, without the fused paths that hide their operators. Parameters, buffers and modes are unchanged,
    and no hooks remain.

    Args:
        model: the network, or one with the kernels of :func:`~lightning_dynprune.deploy.kernels.accelerate`.
        example_input: a tensor, a tuple or list of arguments, or a mapping of keyword arguments.

    Raises:
        CouplingError: the model does not run on the example; the message names the module.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Flatten(), nn.Linear(8 * 16, 10))
        >>> count_macs(net, torch.zeros(1, 3, 4, 4))  # 8 * 27 * 16 and 128 * 10
        4736
    """
    counter = FlopCounterMode(display=False, custom_mapping=_OPERATORS)
    with torch.inference_mode(False), torch.no_grad(), isolated(model), _unfused(), counter:
        run_example(model, example_input)
    # torch counts a multiply-add as two operations.
    return counter.get_total_flops() // 2


@contextmanager
def _unfused() -> Iterator[None]:
    """Run recurrent layers and attention as operators whose work is known."""
    fast = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        with warnings.catch_warnings():
            # Restoring the flags sets one of TF32, which warns where there is no Intel GPU.
            warnings.filterwarnings("ignore", ".*TF32 acceleration on top of oneDNN.*")
            with torch.backends.mkldnn.flags(enabled=False), torch.backends.cudnn.flags(enabled=False):
                yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _product(left: Tensor, right: Tensor) -> int:
    """Return the FLOPs of a product of matrices, or of a matrix and a vector, either of which may be sparse."""
    if left.layout in _SPARSE:
        columns = right.shape[1] if right.dim() > 1 else 1
        return 2 * _stored(left) * columns
    if right.layout in _SPARSE:
        return 2 * _stored(right) * left.shape[0]
    return 2 * left.numel() * (right.shape[-1] if right.dim() == left.dim() else 1)


def _stored(matrix: Tensor) -> int:
    """Return the number of entries that a sparse matrix stores, zeros inside its blocks included."""
    return matrix.values().numel() if matrix.layout is not torch.sparse_coo else matrix.coalesce().values().numel()


@wants_tensors
def _mm(left: Tensor, right: Tensor, *_: Any, **__: Any) -> int:
    return _product(left, right)


@wants_tensors
def _addmm(_added: Tensor, left: Tensor, right: Tensor, *_: Any, **__: Any) -> int:
    return _product(left, right)


@wants_tensors
def _embedding_bag(
    table: Tensor,
    indices: Tensor,
    _offsets: Tensor,
    _scale: bool = False,
    _mode: int = 0,
    _sparse: bool = False,
    weights: Tensor | None = None,
    *_: Any,
    per_sample_weights: Tensor | None = None,
    **__: Any,
) -> int:
    """Return the FLOPs of a weighted sum of rows; without weights nothing is multiplied."""
    weights = weights if weights is not None else per_sample_weights
    return 0 if weights is None else 2 * indices.numel() * table.shape[1]


@wants_tensors
def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    """Return the FLOPs of scaled dot-product attention over ``(..., length, size)``."""
    scores = math.prod(query.shape[:-1]) * key.shape[-2]
    return 2 * scores * (query.shape[-1] + value.shape[-1])


@wants_tensors
def _trilinear(left: Tensor, weight: Tensor, right: Tensor, *_: Any, out_val: Tensor, **__: Any) -> int:
    """Return the FLOPs of ``nn.Bilinear``: for each output, left times weight, times right."""
    return 2 * out_val.numel() * (left.shape[-1] * right.shape[-1] + right.shape[-1])


_OPERATORS: dict[Any, Callable[..., int]] = {
    torch.ops.aten.mm: _mm,
    torch.ops.aten.mv: _mm,
    torch.ops.aten.dot: _mm,
    torch.ops.aten.addmm: _addmm,
    torch.ops.aten.addmv: _addmm,
    **dict.fromkeys(EMBEDDING_BAG_OPERATORS, _embedding_bag),
    **dict.fromkeys(ATTENTION_OPERATORS, _attention),
    TRILINEAR_OPERATOR: _trilinear,
}
