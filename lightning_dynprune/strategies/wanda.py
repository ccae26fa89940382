"""The strategy ``wanda``: the size of a weight times the size of its input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lightning_dynprune.base import check_flag
from lightning_dynprune.selection import check_finite
from lightning_dynprune.strategies.base import STRATEGIES, Strategy
from lightning_dynprune.targets import Target, TargetView, as_matrix, from_matrix

_PIECE = 2**20  # entries ranked at once, as the indices of a sort take 8 bytes each


@STRATEGIES.register("wanda")
@dataclass(frozen=True)
class Wanda(Strategy):
    r"""Scores a connection by the size of its weight times the norm of its input.

    .. math:: S_{ij} = |W_{ij}| \cdot \lVert X_j \rVert_2 / \sqrt{n}

    with :math:`X_j` the :math:`n` values of input :math:`j` that were observed; dividing by :math:`\sqrt{n}` makes
    targets with different numbers of observations comparable. Use it to prune a trained network, such as a language
    model, without training: calibrate on a few batches and prune once.

    Memory: the mask, 1 byte per connection, and one float32 per input, shared by all rows of the weight matrix, which
    is 4 / rows bytes per connection.

    Args:
        per_row: whether a connection is scored by the rank of its product in its row, from 0 to below 1, so that any
            cut prunes the same share of every row; of equal products the first ranks higher. False scores by the
            product itself.

    Source: Sun et al., "A Simple and Effective Pruning Approach for Large Language Models" (2023), equation 1 and
    section 3.

    Example:
        >>> target = Target("w", torch.nn.Parameter(torch.tensor([[8.0, -1.0], [1.0, 3.0]])))
        >>> target.state = Wanda().init_state(target)
        >>> view = target.view(torch.ones(2, 2, dtype=torch.bool))
        >>> Wanda().observe_inputs(view, torch.tensor([[[1.0, 7.0]]]))
        >>> Wanda(per_row=False).score(view).tolist()
        [[8.0, 7.0], [1.0, 21.0]]
        >>> Wanda().score(view).tolist()
        [[0.5, 0.0], [0.0, 0.5]]
    """

    per_row: bool = True
    elementwise: ClassVar[bool] = False
    needs_activations: ClassVar[bool] = True
    summed_state: ClassVar[tuple[str, ...]] = ("input_squares", "inputs")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_flag("strategy wanda: per_row", self.per_row)

    def init_state(self, target: Target) -> dict[str, Tensor]:
        """Return the sum of squares ``input_squares``, float32 ``(groups, columns)``, and the count ``inputs``."""
        groups, columns, device = target.groups, target.columns, target.parameter.device
        return {
            "input_squares": torch.zeros(groups, columns, dtype=torch.float32, device=device),
            "inputs": torch.zeros((), dtype=torch.int64, device=device),
        }

    def observe_inputs(self, target: TargetView, inputs: Tensor) -> None:
        """Add the squares of some inputs to the sums."""
        target.state["input_squares"].add_(inputs.square().sum(1))
        target.state["inputs"].add_(inputs.shape[1])

    def score(self, target: TargetView) -> Tensor:
        """Return the rank of the product in its row, or the product itself.

        Raises:
            RuntimeError: no inputs were observed.
            NonFiniteError: an input was NaN or infinite.
        """
        if not int(target.state["inputs"]):
            raise RuntimeError(
                f"strategy wanda has seen no inputs of {target.name}: call pruner.calibrate(batches) first; if its "
                "module never runs, exclude it from targets"
            )
        # A rank is finite even where its product is not.
        check_finite(target.state["input_squares"], f"inputs of {target.name}")
        norms = (target.state["input_squares"] / target.state["inputs"]).sqrt()
        groups, columns = norms.shape
        rows = as_matrix(target.weight, target.transposed).reshape(groups, -1, columns)
        step = max(1, _PIECE // (groups * columns))
        pieces = [self._scores(piece.abs() * norms.unsqueeze(1)) for piece in torch.split(rows, step, dim=1)]
        return from_matrix(torch.cat(pieces, dim=1).flatten(0, 1), target.weight.shape, target.transposed)

    def _scores(self, products: Tensor) -> Tensor:
        if not self.per_row:
            return products
        columns = products.shape[-1]
        best_first = products.argsort(dim=-1, descending=True, stable=True)
        ranks = torch.arange(columns - 1, -1, -1, dtype=torch.float32, device=products.device) / columns
        return torch.empty_like(products, dtype=ranks.dtype).scatter_(-1, best_first, ranks.expand_as(products))
