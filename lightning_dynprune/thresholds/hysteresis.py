"""Two thresholds: a lower one to be pruned, a higher one to return."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar

import torch
from torch import Tensor

from lightning_dynprune.base import check_real
from lightning_dynprune.selection import Cut, Scores, moments
from lightning_dynprune.targets import Target
from lightning_dynprune.thresholds.base import THRESHOLDS, ValueThreshold
from lightning_dynprune.thresholds.topk import TopK

_UNIT = 2.0**-62  # seeds have 62 bits
_FAR = 1e30  # better than any score, and finite
_OPEN = -1.0  # T is never below 0, so this says that it is not frozen yet


@THRESHOLDS.register("hysteresis")
@dataclass(frozen=True)
class Hysteresis(ValueThreshold):
    """Prunes a living unit that scores at most ``a T``, returns a pruned one that scores above ``b T``.

    Between the two a unit stays what it is. With ``c`` left out T lies, at every update, where exactly the scheduled
    sparsity is met. With ``c`` it is frozen for each target at the first update, ``T = max(mean(s) + c std(s), 0)``
    over its scores s; the scheduled sparsity is then the ceiling, and a target is updated only by chance, with
    probability ``(1 + gamma step)^-power``, so that the masks come to rest.

    It takes a strategy whose weights are latent to return anything: hard masks leave no score of a pruned connection.

    Args:
        c: standard deviations of T above the mean score; a number, or an ordered mapping glob -> number of which the
            first match wins; None where T meets the scheduled sparsity.
        a: factor of T at which a living unit is pruned, above 0.
        b: factor of T above which a pruned unit returns, at least ``a``.
        gamma: how fast the updates become rare.
        power: likewise.
        scope: how the sparsity is shared out where ``c`` is None, as for ``topk``.

    Raises:
        TypeError: a setting of another kind.
        ValueError: a setting out of range; a target that no glob of ``c`` matches.

    Source: Guo, Yao, Chen, "Dynamic Network Surgery for Efficient DNNs" (2016), equations 3 and 4, and the authors'
    code for the constants.

    Example:
        Scores around T = 1: of three living units the first is pruned, of three pruned ones the last returns.

        >>> import torch
        >>> scores, lives = torch.tensor([0.8, 1.0, 1.2, 0.8, 1.0, 1.2]), torch.tensor([True] * 3 + [False] * 3)
        >>> heeded = Hysteresis(c=1.0, gamma=0.0).adjust_scores(scores, lives, seed=0, step=1)
        >>> (heeded > 1.0).tolist()
        [False, True, True, False, False, True]
    """

    c: float | Mapping[str, float] | None = None
    a: float = 0.9
    b: float = 1.1
    gamma: float = 1e-4
    power: float = 1.0
    scope: str = "global"

    adjusts_scores: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_real("threshold hysteresis: a", self.a, 1e-6)
        check_real("threshold hysteresis: b", self.b, self.a)
        check_real("threshold hysteresis: gamma", self.gamma, 0)
        check_real("threshold hysteresis: power", self.power, 0)
        if isinstance(self.c, Mapping):
            for glob, value in self.c.items():
                if not isinstance(glob, str):
                    raise TypeError(f"threshold hysteresis: c has the key {glob!r}; give globs on parameter names")
                check_real(f"threshold hysteresis: c of {glob}", value)
        elif self.c is not None:
            check_real("threshold hysteresis: c", self.c)
        TopK(self.scope)  # raises for an unknown scope

    @property
    def exact(self) -> bool:
        """Where T follows the scheduled sparsity."""
        return self.c is None

    def adjust_scores(self, scores: Tensor, lives: Tensor, seed: int, step: int) -> Tensor:
        """Return ``s / a`` of living units and ``s / b`` of pruned ones, so that one cut at T does for both.

        A target that chance leaves out scores infinitely good where it lives and infinitely bad where it does not.
        """
        if not self._moves(seed, step):
            far = min(_FAR, torch.finfo(scores.dtype).max)
            return torch.where(lives, far, -far).to(scores.dtype)
        return torch.where(lives, scores / self.a, scores / self.b)

    def cut(self, scores: Sequence[Scores], sparsity: float) -> list[Cut]:
        """Return where each target is cut."""
        if self.c is None:
            return self._topk.cut(scores, sparsity)
        # What a failed update froze is frozen all the same: T depends on the target's own scores alone.
        for s in scores:
            if s.memory["threshold"] == _OPEN and self._moves(s.seed, s.step):
                s.memory["threshold"].fill_(self.value(s))
        return super().cut(scores, sparsity)

    def value(self, scores: Scores) -> float:
        """Return T of a target; it is measured where it is not frozen yet, while all its units live."""
        if not self._moves(scores.seed, scores.step):
            return 0.0
        frozen = float(scores.memory["threshold"])
        if frozen != _OPEN:
            return frozen
        mean, std = moments(scores)
        return max(self.a * (mean + self._c(scores.name) * std), 0.0)

    def cut_to_count(self, keep: int, scores: Sequence[Scores]) -> list[Cut]:
        """Return the cuts that keep ``keep`` units in all."""
        return self._topk.cut_to_count(keep, scores)

    def select_grown(self, room: int, worth: Sequence[Scores], kept: Sequence[int]) -> list[Cut]:
        """Return which pruned units fill ``room``."""
        return self._topk.select_grown(room, worth, kept)

    def init_memory(self, target: Target) -> dict[str, Tensor]:
        """Return ``threshold``: T, -1 until it is frozen."""
        return {} if self.c is None else {"threshold": torch.tensor(_OPEN, dtype=torch.float64)}

    def final_sparsity(self, targets: Sequence[Target], sparsity: float | None) -> float | None:
        """Return the sparsity to end at, or the most of it where ``c`` decides."""
        if self.c is None:
            return self._topk.final_sparsity(targets, sparsity)
        for target in targets:
            self._c(target.name)
        return super().final_sparsity(targets, sparsity)

    @property
    def _topk(self) -> TopK:
        return TopK(self.scope)

    def _moves(self, seed: int, step: int) -> bool:
        """Return whether chance lets a target be updated."""
        return self.c is None or seed * _UNIT < (1 + self.gamma * step) ** -self.power

    def _c(self, name: str) -> float:
        if not isinstance(self.c, Mapping):
            return self.c or 0.0
        for glob, value in self.c.items():
            if fnmatchcase(name, glob):
                return value
        raise ValueError(
            f"threshold hysteresis: c has no entry for {name}; there are {', '.join(self.c)}. "
            "Add one, or '*' for the rest"
        )
