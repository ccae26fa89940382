"""Define a kernel: another computation of a Linear layer, from which the layer can be restored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import Tensor, nn

from lightning_dynprune.base import Registry
from lightning_dynprune.masks import pack_bits, unpack_bits


class UnsuitableLayerError(ValueError):
    """A kernel cannot compute a layer or cannot be faster for it; the message states the reason."""


class Kernel(nn.Module, ABC):
    """Compute ``x @ weight.T + bias`` for the weight of one ``nn.Linear``, skipping its zeros.

    Kernels are for inference: gradients and the keys of ``state_dict()`` are not guaranteed. Zeros are left out of the
    sum, so an input that is not finite may give another output than the layer did. The stored tensors suffice to
    restore the layer bit for bit, so the dense weight is not kept.

    A new kernel is a subclass in its own file, registered in ``KERNELS``. Its ``__init__`` takes the layer and the
    kernel's settings, and raises :class:`UnsuitableLayerError` where the weight does not suit.

    Attributes:
        captured_only: faster only inside a captured CUDA graph, where launching costs nothing.
        setting_names: arguments of ``__init__`` besides the layer.

    Args:
        layer: the layer to replace; no reference to it is kept.
    """

    negative_zeros: Tensor | None
    captured_only: ClassVar[bool] = False
    setting_names: ClassVar[tuple[str, ...]] = ()

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.in_features = layer.in_features
        self.out_features = layer.out_features
        self.bias = None if layer.bias is None else _copied(layer.bias)
        self._weight_needs_grad = layer.weight.requires_grad
        negative = (layer.weight.detach() == 0) & layer.weight.detach().signbit()
        self.register_buffer("negative_zeros", pack_bits(negative) if negative.any() else None)
        self.train(layer.training)

    @classmethod
    def settings(cls, layer: nn.Linear) -> list[dict[str, int]]:
        """Return the settings worth timing for a layer.

        Raises:
            UnsuitableLayerError: there are none; the message states the reason.
        """
        return [{}]

    @property
    @abstractmethod
    def label(self) -> str:
        """Name and settings, as tables print them."""

    @abstractmethod
    def compute(self, rows: Tensor) -> Tensor:
        """Return the outputs, contiguous ``(n, out_features)`` with bias, of ``rows`` of shape ``(n, in_features)``."""

    @abstractmethod
    def stored_weight(self) -> Tensor:
        """Return a new ``(out_features, in_features)`` tensor: the weight, with ``+0.0`` where nothing is stored."""

    def forward(self, input: Tensor) -> Tensor:
        """Return ``(..., out_features)`` for ``input`` of ``(..., in_features)``."""
        if input.dim() == 2:
            return self.compute(input)
        rows = input.reshape(input.shape[:-1].numel(), self.in_features)
        return self.compute(rows).view(*input.shape[:-1], self.out_features)

    def dense_weight(self) -> Tensor:
        """Return the layer's weight bit for bit, zeros of both signs included (``w * mask`` leaves both)."""
        weight = self.stored_weight()
        if self.negative_zeros is not None:
            negative = unpack_bits(self.negative_zeros, weight.numel(), "negative_zeros")
            weight.view(-1)[negative.to(weight.device)] = -0.0
        return weight

    def dense(self) -> nn.Linear:
        """Return a Linear equal to the one that this kernel was made from."""
        weight = nn.Parameter(self.dense_weight(), requires_grad=self._weight_needs_grad)
        layer = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None, device="meta")
        layer.weight = weight
        layer.bias = None if self.bias is None else _copied(self.bias)
        return layer.train(self.training)

    @property
    def weight(self) -> Tensor:
        """The dense weight, rebuilt on each access, for code that reads it instead of calling the layer."""
        return self.dense_weight()

    def with_bias(self, outputs: Tensor) -> Tensor:
        """Return ``outputs``, a new tensor that may be too wide, cut to ``out_features`` and with the bias added."""
        if outputs.shape[1] != self.out_features:
            outputs = outputs[:, : self.out_features].contiguous()
        return outputs if self.bias is None else outputs.add_(self.bias)

    def extra_repr(self) -> str:
        """Return the kernel's label and the layer's sizes."""
        return f"{self.label}, in_features={self.in_features}, out_features={self.out_features}"


def format_share(count: Any, total: int) -> str:
    """Return a share of ``total`` in whole percent, as messages print it."""
    return f"{100 * int(count) / max(total, 1):.0f} %"


def _copied(parameter: Tensor) -> nn.Parameter:
    return nn.Parameter(parameter.detach().clone(), requires_grad=parameter.requires_grad)


KERNELS: Registry[Kernel] = Registry("kernel", Kernel)
