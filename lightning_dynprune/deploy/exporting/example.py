"""Hold example inputs of a model, and draw random inputs like them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lightning_dynprune.base import split_arguments


@dataclass(frozen=True)
class Example:
    """Input tensors of one call.

    Args:
        args: positional arguments.
        kwargs: keyword arguments.

    Example:
        >>> example = Example.of(torch.zeros(2, 3))
        >>> [tensor.shape for tensor in example.drawn(5, seed=0).tensors]
        [torch.Size([5, 3])]
    """

    args: tuple[Tensor, ...] = ()
    kwargs: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, example_input: Any) -> Example:
        """Return the inputs that an example input stands for.

        Args:
            example_input: a tensor, a tuple or list of positional arguments, or a mapping of keyword arguments.

        Raises:
            TypeError: an argument is not a tensor.
            ValueError: there are no arguments.
        """
        example = cls(*split_arguments(example_input))
        for position, tensor in enumerate(example.tensors):
            if not isinstance(tensor, Tensor):
                raise TypeError(f"example_input: argument {position} is a {type(tensor).__name__}; give only tensors")
        if not example.tensors:
            raise ValueError(
                "example_input is empty; give a tensor, a tuple of tensors or a mapping from names to tensors"
            )
        return example

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All input tensors, positional ones first."""
        return (*self.args, *self.kwargs.values())

    @property
    def as_input(self) -> Any:
        """The example input that other functions take: keyword arguments if there are any, else a tuple."""
        return dict(self.kwargs) if self.kwargs else self.args

    @property
    def batch(self) -> int | None:
        """Batch size, if the first dimension of all inputs has the same size; otherwise None."""
        sizes = {tensor.shape[0] if tensor.dim() else None for tensor in self.tensors}
        return sizes.pop() if len(sizes) == 1 else None

    def repeated(self, batch: int) -> Example:
        """Return a batch of another size, made by repeating these samples."""
        return self._with([tensor[torch.arange(batch) % tensor.shape[0]] for tensor in self.tensors])

    def drawn(self, batch: int | None, seed: int) -> Example:
        """Return random inputs: normally distributed with this example's mean and deviation; integers within its range.

        Args:
            batch: number of samples; None keeps all sizes.
            seed: equal seeds give equal inputs.
        """
        generator = torch.Generator().manual_seed(seed)
        return self._with([_drawn(tensor, batch, generator) for tensor in self.tensors])

    def _with(self, tensors: Sequence[Tensor]) -> Example:
        num_args = len(self.args)
        return Example(tuple(tensors[:num_args]), dict(zip(self.kwargs, tensors[num_args:], strict=True)))


def _drawn(like: Tensor, batch: int | None, generator: torch.Generator) -> Tensor:
    shape = like.shape if batch is None else (batch, *like.shape[1:])
    if like.dtype == torch.bool:
        return torch.rand(shape, generator=generator) < like.double().mean()
    if not like.dtype.is_floating_point:
        low, high = int(like.min()), int(like.max())
        return torch.randint(low, high + 1, shape, generator=generator, dtype=like.dtype)
    # A constant example has zero deviation, which would make all random inputs equal.
    deviation = float(like.double().std(correction=0)) or 1.0
    return (torch.randn(shape, generator=generator) * deviation + like.double().mean()).to(like.dtype)
