"""How many multiply-adds a forward pass executes, seen operator by operator."""

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

_aten = torch.ops.aten
_SPARSE = (torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc, torch.sparse_coo)


def count_macs(model: nn.Module, example_input: Any) -> int:
    """Return the multiply-adds of matrix products, convolutions and attention in one forward pass, in eval mode.

    Counted is what torch executes, whatever module asked for it: subclasses, functional calls and attention as well as
    layers. A dense operator counts its zeros, for it multiplies by them; a sparse one counts the entries that it
    stores. Not counted are elementwise operations, norms and pooling. A causal mask counts as if nothing were masked,
    2:4 as if it were dense.

    The model is run once, without hooks left and without the fused paths that hide what they execute; parameters,
    buffers and modes are as before.

    Args:
        model: the network, or one on the kernels of :func:`~lightning_dynprune.deploy.kernels.acceleration.accelerate`.
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
    # torch counts a multiply-add as two.
    return counter.get_total_flops() // 2


@contextmanager
def _unfused() -> Iterator[None]:
    """Let recurrent layers and attention be computed by operators whose work is known."""
    fast = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        with warnings.catch_warnings():
            # Among the flags that are put back is one of TF32, which warns where there is no Intel GPU.
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
    """Return the entries that a sparse matrix stores; zeros inside its blocks are entries."""
    return matrix.values().numel() if matrix.layout is not torch.sparse_coo else matrix.coalesce().values().numel()


def _raw(flops: Callable[..., int]) -> Callable[..., int]:
    """Mark a function that wants tensors, where torch would give it shapes."""
    flops._get_raw = True  # type: ignore[attr-defined]
    return flops


@_raw
def _mm(left: Tensor, right: Tensor, *_: Any, **__: Any) -> int:
    return _product(left, right)


@_raw
def _addmm(_added: Tensor, left: Tensor, right: Tensor, *_: Any, **__: Any) -> int:
    return _product(left, right)


@_raw
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
    """Return the FLOPs of summing weighted rows; without weights nothing is multiplied."""
    weights = weights if weights is not None else per_sample_weights
    return 0 if weights is None else 2 * indices.numel() * table.shape[1]


@_raw
def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    """Return the FLOPs of scaled dot products of ``(..., length, size)`` and of the sums that they weight."""
    scores = math.prod(query.shape[:-1]) * key.shape[-2]
    return 2 * scores * (query.shape[-1] + value.shape[-1])


@_raw
def _trilinear(left: Tensor, weight: Tensor, right: Tensor, *_: Any, out_val: Tensor, **__: Any) -> int:
    """Return the FLOPs of ``nn.Bilinear``: for each output, left times weight, times right."""
    return 2 * out_val.numel() * (left.shape[-1] * right.shape[-1] + right.shape[-1])


_OPERATORS: dict[Any, Callable[..., int]] = {
    _aten.mm: _mm,
    _aten.mv: _mm,
    _aten.dot: _mm,
    _aten.addmm: _addmm,
    _aten.addmv: _addmm,
    _aten._embedding_bag: _embedding_bag,
    _aten._embedding_bag_forward_only: _embedding_bag,
    _aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    _aten._scaled_dot_product_fused_attention_overrideable: _attention,
    _aten._trilinear: _trilinear,
}
