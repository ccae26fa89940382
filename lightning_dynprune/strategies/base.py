"""What a strategy is: how much a connection is worth, and whether a pruned one may return."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from lightning_dynprune.base import Registry, convert_settings
from lightning_dynprune.schedules import Schedule
from lightning_dynprune.targets import Target, TargetView


class Strategy(ABC):
    """Scores connections; the higher the score, the sooner a connection is kept.

    A strategy is a dataclass whose fields are its settings; whatever it remembers of a target lives in that target's
    ``state``, so one instance may serve several runs. A setting that could change over training is a number or a
    schedule. What a strategy needs it declares:

    Attributes:
        elementwise: a connection's score depends on nothing but that connection, so a target may be scored in pieces.
        needs_gradients: ``score`` or ``grow`` reads ``target.grad``.
        needs_activations: ``observe_inputs`` is called with the inputs of the targets' modules.
        summed_state: names of the state tensors that are summed over processes, as ``observe_inputs`` fills them.
        accumulates: ``observe`` is called before each optimizer step.
        latent: the values behind the mask keep training, and all of them are scored; without it pruned connections are
            zero in the parameter and only living ones are scored.
        threshold: the threshold that goes with it where the user names none: a registered name or a mapping.
        schedule: the schedule that goes with it where the user names none, likewise.
        exchange: share of the living connections that an update puts up for exchange: that many are dropped by
            ``score`` beyond what the sparsity asks for, and as many returned by ``grow``. A number in [0, 1) or a
            schedule; a strategy that grows makes it a field.

    Example:
        A whole strategy:

        >>> class Smallest(Strategy):
        ...     def score(self, target):
        ...         return -target.weight.abs()
    """

    elementwise: ClassVar[bool] = True
    needs_gradients: ClassVar[bool] = False
    needs_activations: ClassVar[bool] = False
    summed_state: ClassVar[tuple[str, ...]] = ()
    accumulates: ClassVar[bool] = False
    latent: ClassVar[bool] = False
    threshold: ClassVar[str | Mapping[str, Any]] = "topk"
    schedule: ClassVar[str | Mapping[str, Any]] = "cubic"
    exchange: float | Schedule = 0.0

    def __post_init__(self) -> None:
        """Convert NumPy scalars among the settings to Python numbers; a subclass that checks its own calls this."""
        convert_settings(self)

    @abstractmethod
    def score(self, target: TargetView) -> Tensor:
        """Return the importance of every connection: finite, shaped like ``target.weight``, higher = keep."""

    def grow(self, target: TargetView) -> Tensor | None:
        """Return the worth of every pruned connection's return: finite, shaped like ``target.weight``.

        Entries of living connections are not looked at. None leaves the choice, where the schedule lets connections
        return, to chance.
        """
        return None

    def init_state(self, target: Target) -> dict[str, Tensor]:
        """Return the tensors to remember of a target; they are saved in checkpoints.

        Where the strategy is elementwise, each is shaped like the target.
        """
        return {}

    def observe(self, target: TargetView) -> None:
        """Take note of a step's gradient in ``target.state``; called only where ``accumulates`` is declared."""
        return

    def observe_inputs(self, target: TargetView, inputs: Tensor) -> None:
        """Take note of inputs in ``target.state``; called only where ``needs_activations`` is declared.

        Args:
            target: the whole target.
            inputs: what the target's weights were multiplied with, float ``(groups, n, columns)``: a row of
                ``target.weight.flatten(1)`` meets each of the ``n`` rows of its group, 1 group for a Linear.
        """
        return


STRATEGIES: Registry[Strategy] = Registry("strategy", Strategy)
