"""Estimate the running statistics of batch norms again after pruning."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from lightning_dynprune.base import call_model
from lightning_dynprune.deploy.compat import BatchNorm


@torch.no_grad()
def recalibrate(model: nn.Module, batches: Iterable[Any]) -> int:
    r"""Replace the running statistics of all batch norms by their mean over some batches, in place.

    .. math:: \mu = \frac{1}{B} \sum_b \mu_b \qquad \sigma^2 = \frac{1}{B} \sum_b \sigma_b^2

    Pruning changes the inputs of batch norms, while their running statistics describe the network before pruning. No
    labels are needed and no weight changes; only batch norms run in train mode. A channel that is zero stays zero: its
    mean is kept where its scale and shift are zero.

    Args:
        model: the network; training modes are restored afterwards.
        batches: inputs without labels: tensors, tuples of arguments or mappings of keyword arguments, each of more than
            one sample. A few hundred samples suffice.

    Returns:
        The number of batch norms estimated again.

    Raises:
        ValueError: the model has no batch norm with running statistics, or ``batches`` is empty; nothing is changed
            then.

    Example:
        >>> norm = nn.BatchNorm1d(1)
        >>> recalibrate(norm, [torch.tensor([[1.0], [3.0]]), torch.tensor([[4.0], [8.0]])])
        1
        >>> norm.running_mean, norm.running_var  # means 2 and 6, variances 2 and 8
        (tensor([4.]), tensor([5.]))

    Source: Li et al., "EagleEye: Fast Sub-net Evaluation for Efficient Neural Network Pruning" (2020), section 3.
    """
    norms = batch_norms(model)
    if not norms:
        raise ValueError(f"{type(model).__name__} has no batch norm with running values; there is nothing to estimate")
    modes = [(module, module.training) for module in model.modules()]
    momenta = [norm.momentum for norm in norms]
    before = [tuple(buffer.clone() for buffer in _running_buffers(norm)) for norm in norms]
    done = 0
    try:
        model.eval()
        for norm in norms:
            norm.reset_running_stats()
            # None averages over all batches; a number would weight the last ones more.
            norm.momentum = None
            norm.train()
        for batch in batches:
            call_model(model, batch)
            done += 1
        if not done:
            raise ValueError("batches is empty; give at least one batch of inputs")
        for norm, (mean, *_) in zip(norms, before, strict=True):
            _keep_zero_channels(norm, mean)
    except BaseException:
        for norm, buffers in zip(norms, before, strict=True):
            for buffer, value in zip(_running_buffers(norm), buffers, strict=True):
                buffer.copy_(value)
        raise
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, training in modes:
            module.training = training
    return len(norms)


def batch_norms(model: nn.Module) -> list[BatchNorm]:
    """Return a model's batch norms that have running statistics, each once."""
    return [module for module in model.modules() if isinstance(module, BatchNorm) and module.running_mean is not None]


def _running_buffers(norm: BatchNorm) -> tuple[Tensor, ...]:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    return norm.running_mean, norm.running_var, norm.num_batches_tracked


def _keep_zero_channels(norm: BatchNorm, mean: Tensor) -> None:
    """Restore the mean of channels whose output is always zero, so that slimming can remove them."""
    if norm.affine:
        always_zero = (norm.weight == 0) & (norm.bias == 0)
        running = _running_buffers(norm)[0]
        running.copy_(torch.where(always_zero, mean, running))
