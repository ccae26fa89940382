"""The base class of strategies."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from lightning_dynprune.base import Registry, convert_settings
from lightning_dynprune.schedules import Schedule
from lightning_dynprune.targets import Target, TargetView


class Strategy(ABC):
    """Base class of strategies, which score connections: the higher the score, the longer a connection is kept.

    A strategy is a dataclass whose fields are its settings. Anything it must remember of a target is kept in that
    target's ``state``, so one instance can serve several runs. A setting that could change during training takes a
    number or a schedule. Class attributes declare what the strategy needs:

    Attributes:
        elementwise: whether the score of a connection depends on that connection alone, so that a target can be scored
            in pieces.
        needs_gradients: whether ``score`` or ``grow`` reads ``target.grad``.
        needs_squared_gradients: whether it reads ``target.squared_gradients``, the optimizer's running average of
            squared gradients; optimizers that keep none, and updates before the first step, are refused.
        needs_activations: whether ``observe_inputs`` has to be called with the inputs of the targets' modules.
        summed_state: names of the state tensors that are summed over processes, as ``observe_inputs`` fills them.
        accumulates: whether ``observe`` has to be called before every optimizer step.
        latent: whether pruned connections keep a value that goes on training, and are scored too. Without it a pruned
            connection is zero in the parameter, and only kept connections are scored.
        threshold: the default threshold of this strategy; a registered name, or a mapping with ``name``.
        schedule: the default schedule of this strategy, given likewise.
        exchange: share of the kept connections that an update exchanges: so many more than the sparsity asks for are
            pruned by ``score``, and as many are returned by ``grow``. A number in [0, 1) or a schedule; a strategy that
            grows declares it as a field.

    Example:
        A complete strategy:

        >>> class Smallest(Strategy):
        ...     def score(self, target):
        ...         return -target.weight.abs()
    """

    elementwise: ClassVar[bool] = True
    needs_gradients: ClassVar[bool] = False
    needs_squared_gradients: ClassVar[bool] = False
    needs_activations: ClassVar[bool] = False
    summed_state: ClassVar[tuple[str, ...]] = ()
    accumulates: ClassVar[bool] = False
    latent: ClassVar[bool] = False
    threshold: ClassVar[str | Mapping[str, Any]] = "topk"
    schedule: ClassVar[str | Mapping[str, Any]] = "cubic"
    exchange: float | Schedule = 0.0

    def __post_init__(self) -> None:
        """Convert NumPy scalars among the settings to Python numbers.

        A subclass that checks its settings in ``__post_init__`` calls this first.
        """
        convert_settings(self)

    @abstractmethod
    def score(self, target: TargetView) -> Tensor:
        """Return the score of every connection: finite, shaped like ``target.weight``; higher scores are kept."""

    def grow(self, target: TargetView) -> Tensor | None:
        """Return a score for returning, finite and shaped like ``target.weight``; the highest-scored return first.

        Entries of kept connections are ignored. None selects at random where a schedule lets connections return.
        """
        return None

    def init_state(self, target: Target) -> dict[str, Tensor]:
        """Return the tensors to remember for a target; checkpoints store them.

        In an elementwise strategy each has the target's shape.
        """
        return {}

    def observe(self, target: TargetView) -> None:
        """Update ``target.state`` from the gradient of a step; called only where ``accumulates`` is True."""
        return

    def observe_inputs(self, target: TargetView, inputs: Tensor) -> None:
        """Update ``target.state`` from inputs of its module; called only where ``needs_activations`` is True.

        Args:
            target: the whole target.
            inputs: the vectors that the weight matrix is multiplied with, float ``(groups, n, columns)``: each row of
                the matrix, which is one output, is multiplied with the ``n`` vectors of its group.
        """
        return


STRATEGIES: Registry[Strategy] = Registry("strategy", Strategy)
