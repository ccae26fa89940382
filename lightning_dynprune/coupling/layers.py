"""The treatment of channels by layers: some mix all input channels, others work channel by channel."""

from __future__ import annotations

from torch import nn

from lightning_dynprune.base import BATCH_NORMS, CONVOLUTIONS, INSTANCE_NORMS

# The tensors of a layer that works channel by channel; channels lie along their first dimension.
CHANNELWISE_TENSORS = ("weight", "bias", "running_mean", "running_var")


def mixes_channels(module: nn.Module) -> bool:
    """Return whether each output channel depends on all input channels: Linear, convolution with one group."""
    return isinstance(module, nn.Linear) or (isinstance(module, CONVOLUTIONS) and module.groups == 1)


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
    if isinstance(module, nn.Linear):
        return -1
    if isinstance(module, CONVOLUTIONS):
        return -1 - len(module.kernel_size)
    return 1


def row_dim(module: nn.Module) -> int:
    """Return the dimension of ``weight`` along which output channels lie."""
    return 1 if isinstance(module, CONVOLUTIONS) and module.transposed and module.groups == 1 else 0


def column_dim(module: nn.Module) -> int:
    """Return the dimension of ``weight`` along which input channels lie."""
    return 1 - row_dim(module)


def num_output_channels(module: nn.Module) -> int:
    """Return the number of output channels of a layer that mixes channels."""
    return module.out_features if isinstance(module, nn.Linear) else int(module.out_channels)  # type: ignore[arg-type]
