"""Metrics of what each input costs: mean and spread of compute, and whether the hard inputs get more of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional import spearman_corrcoef
from torchmetrics.utilities import dim_zero_cat


class ComputePerInput(Metric):
    r"""Computes how much is spent on each input, and how that goes with how hard the input is.

    With :math:`c_i` the compute of an input, :math:`\ell_i` the loss of the dense network on it and :math:`a_i` 1 where
    the answer is correct, ``compute`` returns a mapping to zero-dimensional float64 tensors:

    - ``compute_mean``, ``compute_p5``, ``compute_p95``: mean and quantiles of c;
    - ``rank_correlation``: Spearman's :math:`\rho` of :math:`\ell` and c; NaN where all c are equal;
    - ``accuracy``: mean of a; ``accuracy_easy`` and ``accuracy_hard``: over the half of the inputs with the lower and
      with the higher :math:`\ell`.

    ``update`` takes ``compute``, ``dense_loss`` and ``correct``, each ``(n,)``.

    Args:
        **kwargs: settings of every torchmetrics metric, such as ``dist_sync_on_step``.

    Raises:
        ValueError: at ``update``, the shapes differ; at ``compute``, there were no inputs.

    Example:
        >>> metric = ComputePerInput()
        >>> losses, correct = torch.tensor([0.1, 0.3, 2.0, 1.0]), torch.tensor([True, True, False, True])
        >>> metric.update(torch.tensor([0.2, 0.2, 1.0, 0.6]), losses, correct)
        >>> figures = metric.compute()
        >>> [round(float(figures[name]), 2) for name in ("compute_mean", "compute_p95", "rank_correlation")]
        [0.5, 0.94, 0.95]
        >>> [float(figures[name]) for name in ("accuracy", "accuracy_easy", "accuracy_hard")]
        [0.75, 1.0, 0.5]

    Source: the report of per-input pruning in Han et al., Dynamic Neural Networks: A Survey, TPAMI 2022.
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    spent: list[Tensor]
    losses: list[Tensor]
    correct: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in ("spent", "losses", "correct"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, compute: Tensor, dense_loss: Tensor, correct: Tensor) -> None:
        """Add a batch of inputs."""
        if not compute.shape == dense_loss.shape == correct.shape or compute.dim() != 1:
            shapes = [tuple(each.shape) for each in (compute, dense_loss, correct)]
            raise ValueError(f"compute, dense_loss and correct have the shapes {shapes}; give (n,) for all three")
        self.spent.append(compute.to(self.device).double())
        self.losses.append(dense_loss.to(self.device).double())
        self.correct.append(correct.to(self.device).double())

    def compute(self) -> dict[str, Tensor]:
        """Return the figures over all inputs, by name."""
        # Lists become tensors when the states of several processes are gathered.
        if not len(self.spent):
            raise ValueError("there were no inputs, so that there is no mean; call update with some first")
        spent, losses, correct = (dim_zero_cat(each) for each in (self.spent, self.losses, self.correct))
        order = losses.argsort(stable=True)
        half = max(1, len(order) // 2)
        has_ranks = len(spent) > 1 and bool((spent != spent[0]).any()) and bool((losses != losses[0]).any())
        return {
            "compute_mean": spent.mean(),
            "compute_p5": spent.quantile(0.05),
            "compute_p95": spent.quantile(0.95),
            "rank_correlation": spearman_corrcoef(spent, losses) if has_ranks else spent.new_tensor(torch.nan),
            "accuracy": correct.mean(),
            "accuracy_easy": correct[order[:half]].mean(),
            "accuracy_hard": correct[order[-half:]].mean(),
        }


class PathShares(Metric):
    r"""Computes the share of inputs that take each way through a network, and the accuracy of each way.

    .. math:: s_k = \frac{n_k}{\sum_j n_j}, \qquad a_k = \frac{r_k}{n_k}

    with :math:`n_k` the number of inputs that took the way k, such as an early exit, and :math:`r_k` the number of
    those that were classified correctly. ``update`` takes ``path``, int64 ``(n,)``, and ``correct``, bool ``(n,)``.
    ``compute`` returns a pair of float64 tensors ``(ways,)``: shares, and accuracies, NaN where no input went.

    Args:
        ways: number of ways.
        **kwargs: settings of every torchmetrics metric, such as ``dist_sync_on_step``.

    Raises:
        ValueError: ``ways`` is below 1, or at ``update`` a path is not in [0, ways).

    Example:
        >>> metric = PathShares(2)
        >>> metric.update(torch.tensor([0, 0, 0, 1]), torch.tensor([True, True, False, True]))
        >>> [each.tolist() for each in metric.compute()]
        [[0.75, 0.25], [0.6666666666666666, 1.0]]

    Source: this package.
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    taken: Tensor
    right: Tensor

    def __init__(self, ways: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if ways < 1:
            raise ValueError(f"ways={ways} is not accepted; give a number of at least 1")
        self.add_state("taken", torch.zeros(ways, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("right", torch.zeros(ways, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, path: Tensor, correct: Tensor) -> None:
        """Add a batch of inputs."""
        path, correct = path.to(self.taken.device), correct.to(self.taken.device)
        if len(path) and not 0 <= int(path.min()) <= int(path.max()) < len(self.taken):
            raise ValueError(f"path from {int(path.min())} to {int(path.max())}: give 0 to {len(self.taken) - 1}")
        self.taken += torch.bincount(path, minlength=len(self.taken))
        self.right += torch.bincount(path[correct], minlength=len(self.taken))

    def compute(self) -> tuple[Tensor, Tensor]:
        """Return shares and accuracies, float64."""
        return self.taken.double() / self.taken.sum(), self.right.double() / self.taken


class LayerDensity(Metric):
    r"""Computes the mean share of each layer that inputs are computed with, such as its live inputs or channels.

    .. math:: d_k = \frac{1}{n} \sum_i d_{ik}

    with :math:`d_{ik}` the density of layer k for input i. ``update`` takes a mapping from the names of all layers to
    densities ``(n,)``; ``compute`` returns a mapping from names to float64 tensors, NaN where there were no inputs.

    Args:
        names: of the layers.
        **kwargs: settings of every torchmetrics metric, such as ``dist_sync_on_step``.

    Raises:
        ValueError: at ``update``, the mapping has other layers.

    Example:
        >>> metric = LayerDensity(["up", "down"])
        >>> metric.update({"up": torch.tensor([1.0, 0.5]), "down": torch.tensor([0.25, 0.25])})
        >>> {name: float(value) for name, value in metric.compute().items()}
        {'up': 0.75, 'down': 0.25}

    Source: this package.
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    total: Tensor
    count: Tensor

    def __init__(self, names: Sequence[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.names = tuple(names)
        self.add_state("total", torch.zeros(len(self.names), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, densities: Mapping[str, Tensor]) -> None:
        """Add a batch of inputs."""
        if set(densities) != set(self.names):
            raise ValueError(f"densities are of {sorted(densities)}; give those of {sorted(self.names)}")
        if self.names:
            each = torch.stack([densities[name].to(self.total.device).double() for name in self.names])
            self.total += each.sum(1)
            self.count += each.shape[1]

    def compute(self) -> dict[str, Tensor]:
        """Return the mean densities by name."""
        return dict(zip(self.names, self.total / self.count, strict=True))
