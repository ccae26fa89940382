"""The settings of distillation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import nn

from lightning_dynprune.base import check_real

DENSE, LOGITS = "dense", "logits"


@dataclass(frozen=True, eq=False)
class Distillation:
    r"""Adds the distance to a teacher's outputs to the loss that ``training_step`` returns.

    .. math:: (1 - \alpha) \, L + \alpha \, D

    with L the module's own loss and D, for ``on="logits"``, the divergence of the class probabilities at temperature T,

    .. math:: D = T^2 \; \mathrm{KL}\left(\operatorname{softmax}(t / T) \,\|\, \operatorname{softmax}(s / T)\right)

    averaged over the rows; for named modules the mean squared difference of their outputs over the teacher's mean
    square, averaged over the modules. Both are computed in float32. The teacher runs in eval mode without gradients, on
    the inputs of each forward of the student, in the same precision.

    Args:
        teacher: ``"dense"``, the module's own weights when the fit begins, for a fit that prunes a trained network; or
            a trained module: a LightningModule of the same structure or the network that it calls. It is never a
            submodule, and checkpoints hold a checksum of it alone.
        on: ``"logits"``, the output of the network that ``training_step`` calls; or globs on names of modules in it.
        temperature: T, above 0; of ``"logits"`` alone.
        alpha: share of D, in [0, 1].

    Raises:
        TypeError: a setting of the wrong kind.
        ValueError: a setting out of range.

    Example:
        >>> Distillation("dense", alpha=0.9).temperature
        2.0

    Source: Hinton, Vinyals, Dean, Distilling the Knowledge in a Neural Network, 2015, section 2; for named modules
    Romero et al., FitNets, ICLR 2015, equation 3, without the regressor.
    """

    teacher: str | nn.Module = field(repr=False)
    on: str | Sequence[str] = LOGITS
    temperature: float = 2.0
    alpha: float = 0.5

    def __post_init__(self) -> None:
        if not isinstance(self.teacher, nn.Module) and self.teacher != DENSE:
            raise TypeError(f"distill: teacher={self.teacher!r} is not accepted; give 'dense' or a trained module")
        globs = [self.on] if isinstance(self.on, str) else self.on
        if not isinstance(globs, Sequence) or not globs or not all(isinstance(glob, str) for glob in globs):
            raise TypeError(f"distill: on={self.on!r} is not accepted; give 'logits', or globs on names of modules")
        check_real("distill: alpha", self.alpha, low=0, high=1)
        if not check_real("distill: temperature", self.temperature, low=0):
            raise ValueError("distill: temperature=0 is not accepted; give a number above 0")

    @property
    def globs(self) -> tuple[str, ...]:
        """Globs on names of modules; empty where logits are compared."""
        if self.on == LOGITS:
            return ()
        return (self.on,) if isinstance(self.on, str) else tuple(self.on)
