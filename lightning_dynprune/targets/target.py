"""A target, which is one prunable parameter, and the view of it that a strategy scores."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from lightning_dynprune.distributed import Shard, local_part


@dataclass(eq=False)
class Target:
    """One prunable parameter.

    Attributes:
        name: qualified name of the parameter in the model.
        parameter: the parameter itself, never wrapped.
        min_kept: smallest number of connections to keep.
        sparsity: this target's own final sparsity, for the scope ``layer``; None otherwise.
        groups: groups of the convolution whose weight it is; 1 otherwise.
        transposed: whether its first dimension is that of the inputs, as in the weight of a transposed convolution or
            of transformers' Conv1D.
        known_layout: whether it is known which dimensions are inputs and which outputs, as patterns over a weight's
            matrix need it.
        shard: the part of it that this process holds; None: all of it.
        sparse_gradients: whether it is the weight of an embedding with sparse gradients.
        state: tensors that the strategy keeps for this target.
        memory: tensors that the threshold keeps for this target.
    """

    name: str
    parameter: nn.Parameter
    min_kept: int = 1
    sparsity: float | None = None
    groups: int = 1
    transposed: bool = False
    known_layout: bool = True
    shard: Shard | None = None
    sparse_gradients: bool = False
    state: dict[str, Tensor] = field(default_factory=dict)
    memory: dict[str, Tensor] = field(default_factory=dict)

    @property
    def columns(self) -> int:
        """Number of columns of the weight's matrix, which has one row per output: inputs times kernel entries."""
        return self.parameter.numel() // self.parameter.shape[1 if self.transposed else 0]

    @property
    def numel(self) -> int:
        """Number of connections of this target, over all processes that hold parts of it."""
        return self.parameter.numel()

    @property
    def values(self) -> Tensor:
        """The parameter's values, or the part of them that this process holds; shares their memory."""
        return local_part(self.parameter).detach()

    @property
    def grad(self) -> Tensor | None:
        """The parameter's gradient, or the part of it that this process holds."""
        grad = self.parameter.grad
        return None if grad is None else local_part(grad)

    def full_tensor(self, part: Tensor) -> Tensor:
        """Return the whole tensor assembled from the parts of all processes, each sharded like the parameter."""
        return part if self.shard is None else self.shard.full_tensor(part)

    def local_part(self, whole: Tensor) -> Tensor:
        """Return the part of a tensor shaped like the parameter that lies where this process holds values."""
        return whole if self.shard is None else self.shard.local_box(whole)

    def view(self, mask: Tensor, seed: int = 0, run_seed: int = 0, step: int = 1) -> TargetView:
        """Return the view of this target that a strategy scores, shaped like :attr:`values`."""
        grad = self.grad
        if grad is not None and grad.layout != torch.strided:
            grad = None  # an embedding's sparse gradient has no entry for each connection
        return TargetView(
            self.name, self.values, grad, mask, self.state, seed, run_seed, step, self.transposed, shard=self.shard
        )


@dataclass
class TargetView:
    """A target, or a piece of it, as a strategy sees it: tensors of one shape, entry by entry.

    Attributes:
        name: qualified name of the target.
        weight: detached values; for a latent strategy including those behind the mask.
        grad: the last gradient; None if there is none.
        mask: bool, True = kept.
        squared_gradients: the optimizer's running average of squared gradients, where the strategy declares
            ``needs_squared_gradients``; None elsewhere, and before the first step.
        state: tensors that the strategy keeps, as created by its ``init_state`` and written by ``observe``.
        seed: differs between targets, updates and runs, and is the same on every rank.
        run_seed: differs between targets and runs only.
        step: number of optimizer steps done; 0 before training.
        transposed: whether the first dimension of the target is that of the inputs.
        start: flat index in the target of the first entry, if the piece is a slice.
        index: flat indices in the target, if the piece was gathered.
        shard: the part of the target that this process holds, if not all of it; ``start`` and ``index`` count in it.
    """

    name: str
    weight: Tensor
    grad: Tensor | None
    mask: Tensor
    state: dict[str, Tensor]
    seed: int
    run_seed: int = 0
    step: int = 1
    transposed: bool = False
    start: int = 0
    index: Tensor | None = None
    shard: Shard | None = None
    squared_gradients: Tensor | None = None

    @property
    def positions(self) -> Tensor:
        """Flat index of every entry in the whole target: int64, shaped like ``weight``."""
        index = self.index
        if index is None:
            stop = self.start + self.weight.numel()
            index = torch.arange(self.start, stop, device=self.weight.device).view(self.weight.shape)
        return index if self.shard is None else self.shard.positions(index)

    def gradient(self) -> Tensor:
        """Return ``grad``.

        Raises:
            RuntimeError: the target has no gradient.
        """
        if self.grad is None:
            raise RuntimeError(
                f"{self.name} has no gradient at this update, and the strategy reads it; update after a backward pass "
                "and before zero_grad, or exclude the target"
            )
        return self.grad

    def averaged_squares(self) -> Tensor:
        """Return ``squared_gradients``.

        Raises:
            RuntimeError: the optimizer has not stepped this target yet, so that it keeps no average.
        """
        if self.squared_gradients is None:
            raise RuntimeError(
                f"{self.name}: its optimizer keeps no running average of squared gradients yet, and the strategy reads "
                "it; let the optimizer step the target before the first update, or exclude the target"
            )
        return self.squared_gradients

    def flat(self) -> TargetView:
        """Return the same entries in one dimension; copied only if the layout is not contiguous."""
        return self._map(lambda tensor: tensor.reshape(-1), start=self.start)

    def piece(self, start: int, stop: int) -> TargetView:
        """Return the entries ``start`` to ``stop`` of a flat view."""
        return self._map(lambda tensor: tensor[start:stop], start=self.start + start)

    def gather(self, index: Tensor) -> TargetView:
        """Return the entries of a flat view at the indices ``index`` (int64, one dimension)."""
        return self._map(lambda tensor: tensor[index], index=index)

    def _map(self, change: Callable[[Tensor], Tensor], start: int = 0, index: Tensor | None = None) -> TargetView:
        grad = None if self.grad is None else change(self.grad)
        squares = None if self.squared_gradients is None else change(self.squared_gradients)
        state = {key: change(value) for key, value in self.state.items()}
        return dataclasses.replace(
            self,
            weight=change(self.weight),
            grad=grad,
            mask=change(self.mask),
            state=state,
            start=start,
            index=index,
            squared_gradients=squares,
        )
