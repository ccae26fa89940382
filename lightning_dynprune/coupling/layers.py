"""The treatment of channels by layers: some mix all input channels, others work channel by channel."""

from __future__ import annotations

from torch import nn

from lightning_dynprune.base import BATCH_NORMS, CONVOLUTIONS, INSTANCE_NORMS
from lightning_dynprune.targets import is_conv1d

# The tensors of a layer that works channel by channel; channels lie along their first dimension.
CHANNELWISE_TENSORS = ("weight", "bias", "running_mean", "running_var")


def mixes_channels(module: nn.Module) -> bool:
    """Return whether each output channel depends on all input channels: matrices, convolutions with one group."""
    return is_matrix(module) or (isinstance(module, CONVOLUTIONS) and module.groups == 1)


def is_matrix(module: nn.Module) -> bool:
    """Return whether a layer multiplies by a matrix: Linear, or the ``Conv1D`` of transformers."""
    return isinstance(module, nn.Linear) or is_conv1d(module)


def is_grouped(module: nn.Module) -> bool:
    """Return whether a layer mixes channels within groups only; a depthwise convolution is one."""
    return isinstance(module, CONVOLUTIONS) and module.groups > 1


def is_channelwise(module: nn.Module) -> bool:
    """Return whether each output channel depends only on the input channel of the same index."""
    if isinstance(module, CONVOLUTIONS):
        return 1 < module.groups == module.in_channels == module.out_channels
    if isinstance(module, nn.GroupNorm):
        return module.num_groups == module.num_channels > 1
    if isinstance(module, nn.PReLU):
        return module.num_parameters > 1
    return isinstance(module, (*BATCH_NORMS, *INSTANCE_NORMS))


def holds_tensors(module: nn.Module) -> bool:
    """Return whether a module has parameters or buffers of its own, not counting those of its children."""
    return any(True for own in (module.parameters, module.buffers) for _ in own(recurse=False))


def channel_dim(module: nn.Module) -> int:
    """Return the dimension of a layer's inputs and outputs along which channels lie; negative if from the end."""
    if is_matrix(module):
        return -1
    if isinstance(module, CONVOLUTIONS):
        return -1 - len(module.kernel_size)
    return 1


def row_dim(module: nn.Module) -> int:
    """Return the dimension of ``weight`` along which output channels lie."""
    transposed = isinstance(module, CONVOLUTIONS) and module.transposed and module.groups == 1
    return 1 if transposed or is_conv1d(module) else 0


def column_dim(module: nn.Module) -> int:
    """Return the dimension of ``weight`` along which input channels lie."""
    return 1 - row_dim(module)


def num_output_channels(module: nn.Module) -> int:
    """Return the number of output channels of a layer that mixes channels."""
    local = "out_features" if isinstance(module, nn.Linear) else "nf" if is_conv1d(module) else "out_channels"
    return int(getattr(module, local))


def num_input_channels(module: nn.Module) -> int:
    """Return the number of input channels of a layer that mixes channels."""
    local = "in_features" if isinstance(module, nn.Linear) else "nx" if is_conv1d(module) else "in_channels"
    return int(getattr(module, local))
