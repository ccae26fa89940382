"""Small classifiers that read the features of a layer inside a network."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KINDS = ("pooled", "vector", "mean_token", "last_token")
_BINS = 3  # along each axis; one bin costs twice the compute for the same accuracy
_POOLS: dict[int, Callable[..., Tensor]] = {3: F.avg_pool1d, 4: F.avg_pool2d, 5: F.avg_pool3d}


class ExitHead(nn.Module):
    r"""Classifies inputs by the features of one layer.

    .. math:: z = W_2 \operatorname{relu}(W_1 r(h) + b_1) + b_2

    with :math:`r` the reduction of features to a vector: ``pooled``, average pooling to at most 3 bins an axis, which
    are of one size and may overlap; ``vector``, none; ``mean_token``, the mean over positions; ``last_token``, the
    last position.

    Args:
        kind: ``pooled`` (``(n, channels, *size)``), ``vector`` (``(n, features)``), ``mean_token`` or ``last_token``
            (``(n, positions, features)``).
        inputs: length of the vector that ``reduce`` returns.
        hidden: units of the hidden layer.
        classes: number of outputs.

    Example:
        >>> head = ExitHead("pooled", inputs=8 * 9, hidden=16, classes=10)
        >>> head(torch.zeros(2, 8, 14, 14)).shape
        torch.Size([2, 10])

    Source: pooling and MLP heads as in Kaya, Hong, Dumitras, Shallow-Deep Networks, ICML 2019, section 4.
    """

    def __init__(self, kind: str, inputs: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.kind = kind
        self.hidden = nn.Linear(inputs, hidden)
        self.output = nn.Linear(hidden, classes)

    def reduce(self, features: Tensor) -> Tensor:
        """Return one vector an input, ``(n, inputs)``."""
        if features.dtype != torch.float32:  # of a network in half precision
            features = features.to(self.hidden.weight.dtype)
        if self.kind == "pooled":
            kernel, stride = pooling_of(features.shape[2:])
            return _POOLS[features.dim()](features, kernel, stride).flatten(1)
        if self.kind == "mean_token":
            return features.mean(1)
        return features[:, -1] if self.kind == "last_token" else features

    def classify(self, reduced: Tensor) -> Tensor:
        """Return class scores, ``(n, classes)``, of the vectors that :meth:`reduce` returns."""
        scores: Tensor = self.output(F.relu(self.hidden(reduced)))
        return scores

    def forward(self, features: Tensor) -> Tensor:
        """Return class scores, ``(n, classes)``."""
        return self.classify(self.reduce(features))


@lru_cache
def pooling_of(size: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return kernel and stride of the pooling to at most three equal bins an axis that together cover it.

    Pooling with a fixed kernel takes half the time of adaptive pooling.

    Args:
        size: length of each axis.

    Example:
        >>> pooling_of((14, 7)), pooling_of((2,))
        (((6, 3), (4, 2)), ((1,), (1,)))
    """
    kernels = [1 if axis <= _BINS else -(-axis // _BINS) for axis in size]
    kernels = [kernel + (axis > _BINS and (axis - kernel) % 2) for kernel, axis in zip(kernels, size, strict=True)]
    strides = [1 if axis <= _BINS else (axis - kernel) // 2 for kernel, axis in zip(kernels, size, strict=True)]
    return tuple(kernels), tuple(strides)


def head_kind(features: object, scores: Tensor, name: str, is_convolutional: bool, given: str = "auto") -> str:
    """Return the kind of head that reads a module's output.

    Args:
        features: the output of the module.
        scores: output of the model: ``(n, classes)``, or ``(n, positions, classes)`` of a token model.
        name: of the module, for messages.
        is_convolutional: whether a one-dimensional convolution ran before, so that three axes are
            ``(n, channels, length)`` and not ``(n, positions, features)``.
        given: the setting ``head``: a kind, or ``auto``.

    Raises:
        ValueError: no head reads such an output; the message names the module and what it returns.
    """
    if not isinstance(features, Tensor) or not features.is_floating_point():
        what = f"{features.dtype} values" if isinstance(features, Tensor) else f"a {type(features).__name__}"
        raise ValueError(f"after={name!r}: the module returns {what}; a head reads one tensor of floating point values")
    if features.dim() < 2 or features.shape[0] != scores.shape[0]:
        raise ValueError(
            f"after={name!r}: the module returns the shape {tuple(features.shape)} for a batch of {scores.shape[0]}; a "
            "head reads (batch, features), (batch, positions, features) or (batch, channels, *size)"
        )
    is_token_model = scores.dim() == 3
    natural = {2: "vector", 4: "pooled", 5: "pooled"}.get(features.dim(), "")
    if features.dim() == 3:
        natural = "pooled" if is_convolutional else "last_token" if is_token_model else "mean_token"
    kind = natural if given == "auto" else given
    fits = {"pooled": features.dim() in _POOLS, "vector": features.dim() == 2}.get(kind, features.dim() == 3)
    if not natural or not fits:
        raise ValueError(
            f"after={name!r}: no head of kind {kind or given!r} reads the shape {tuple(features.shape)}; give "
            f"head='auto', or one of {', '.join(KINDS)} that does, or another module"
        )
    if is_token_model and kind != "last_token":
        raise ValueError(
            f"after={name!r}: the model returns scores of each position, {tuple(scores.shape)}, so its exits read the "
            f"last position of (batch, positions, features), not the shape {tuple(features.shape)}"
        )
    return kind


def new_head(kind: str, features: Tensor, hidden: int, classes: int, seed: int) -> ExitHead:
    """Return an untrained head for features, with weights that depend on the seed alone.

    Args:
        kind: see :class:`ExitHead`.
        features: output of the module that the head reads.
        hidden: units of the hidden layer.
        classes: number of outputs.
        seed: of the weights.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        head = ExitHead(kind, 1, hidden, classes)
        width = head.reduce(features[:1].detach().float()).shape[1]
        head.hidden = nn.Linear(width, hidden)
        nn.init.kaiming_normal_(head.hidden.weight, nonlinearity="relu")
        nn.init.zeros_(head.hidden.bias)
        nn.init.normal_(head.output.weight, std=1 / math.sqrt(hidden))
        nn.init.zeros_(head.output.bias)
    return head
