"""Batch norm's running values, estimated anew for the network that pruning left."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_dynprune.base import call_model


@torch.no_grad()
def recalibrate(model: nn.Module, batches: Iterable[Any]) -> int:
    r"""Replace the running values of all batch norms by their mean over some batches, in place.

    .. math:: \mu = \frac{1}{B} \sum_b \mu_b \qquad \sigma^2 = \frac{1}{B} \sum_b \sigma_b^2

    Pruning moves what arrives at a norm, and running values remember the network as it was. No labels are needed and no
    weight moves; the norms alone run as in training, all else as in eval mode. A channel that is zero stays zero: its
    mean is, and where its scale and shift are zero its mean is not changed.

    Args:
        model: the network; what it is in training mode for, it is afterwards too.
        batches: inputs alone: tensors, tuples of arguments or mappings of keyword arguments, more than one sample each.
            A few hundred samples suffice.

    Returns:
        The number of norms estimated anew.

    Raises:
        ValueError: the model has no batch norm with running values, or there is no batch; nothing has changed then.

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
    before = [tuple(buffer.clone() for buffer in _running(norm)) for norm in norms]
    done = 0
    try:
        model.eval()
        for norm in norms:
            norm.reset_running_stats()
            # The mean over all batches so far, where a number would forget the first ones.
            norm.momentum = None
            norm.train()
        for batch in batches:
            call_model(model, batch)
            done += 1
        if not done:
            raise ValueError("batches is empty; give at least one batch of inputs")
        for norm, (mean, *_) in zip(norms, before, strict=True):
            _keep_silent(norm, mean)
    except BaseException:
        for norm, buffers in zip(norms, before, strict=True):
            for buffer, value in zip(_running(norm), buffers, strict=True):
                buffer.copy_(value)
        raise
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, training in modes:
            module.training = training
    return len(norms)


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """Return a model's batch norms that have running values, each once."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm) and module.running_mean is not None]


def _running(norm: _BatchNorm) -> tuple[Tensor, ...]:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    return norm.running_mean, norm.running_var, norm.num_batches_tracked


def _keep_silent(norm: _BatchNorm, mean: Tensor) -> None:
    """Leave the mean of channels that give zero, whatever arrives, as it was; slimming takes them out."""
    if norm.affine:
        silent = (norm.weight == 0) & (norm.bias == 0)
        running = _running(norm)[0]
        running.copy_(torch.where(silent, mean, running))
