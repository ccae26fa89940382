"""What a layer does with its channels: make, carry, or read them."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

# The tensors of a layer that carries channels, which lie along their first dimension.
CHANNELWISE_TENSORS = ("weight", "bias", "running_mean", "running_var")


def mixes_channels(module: nn.Module) -> bool:
    """Return whether each output channel is computed from all input channels: Linear, convolution of one group."""
    return isinstance(module, nn.Linear) or (isinstance(module, _ConvNd) and module.groups == 1)


def is_channelwise(module: nn.Module) -> bool:
    """Return whether each output channel is computed from the input channel of the same number alone."""
    if isinstance(module, _ConvNd):
        return 1 < module.groups == module.in_channels == module.out_channels
    if isinstance(module, nn.GroupNorm):
        return module.num_groups == module.num_channels > 1
    if isinstance(module, nn.PReLU):
        return module.num_parameters > 1
    return isinstance(module, (_BatchNorm, _InstanceNorm))


def holds_tensors(module: nn.Module) -> bool:
    """Return whether a module holds parameters or buffers itself."""
    return any(tensor is not None for tensor in (*module._parameters.values(), *module._buffers.values()))


def channel_dim(module: nn.Module) -> int:
    """Return the dimension, from the end or of a batch, along which inputs and outputs have their channels."""
    if isinstance(module, nn.Linear):
        return -1
    if isinstance(module, _ConvNd):
        return -1 - len(module.kernel_size)
    return 1


def row_dim(module: nn.Module) -> int:
    """Return the dimension of ``weight`` along which output channels lie."""
    return 1 if isinstance(module, _ConvNd) and module.transposed and module.groups == 1 else 0


def column_dim(module: nn.Module) -> int:
    """Return the dimension of ``weight`` along which input channels lie."""
    return 1 - row_dim(module)


def num_output_channels(module: nn.Module) -> int:
    """Return the number of output channels of a layer that makes them."""
    return module.out_features if isinstance(module, nn.Linear) else int(module.out_channels)  # type: ignore[arg-type]
