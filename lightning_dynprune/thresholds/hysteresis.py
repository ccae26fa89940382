"""The threshold ``hysteresis``: a lower score to be pruned, a higher score to return."""

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

_SEED_SCALE = 2.0**-62  # seeds have 62 bits
_BEST = 1e30  # above any score, and finite
_NOT_MEASURED = -1.0  # marks a T that is not measured yet; T itself is never negative


@THRESHOLDS.register("hysteresis")
@dataclass(frozen=True)
class Hysteresis(ValueThreshold):
    """Prunes kept units that score at most ``a T`` and returns pruned units that score above ``b T``.

    Units that score between the two stay as they are. Without ``c``, each update chooses T so that exactly the
    scheduled sparsity is reached. With ``c``, each target's T is measured once, at its first update,
    ``T = max(mean(s) + c std(s), 0)`` over its scores s, and is constant from then on; the scheduled sparsity is then
    an upper limit, and each target takes part in an update with probability ``(1 + gamma step)^-power``, so that
    updates become rare and the masks settle.

    Use it with a strategy that keeps latent weights, such as ``surgery``: with hard masks a pruned connection has no
    score, and nothing returns.

    Args:
        c: number of standard deviations above the mean score at which T is measured; a number, or an ordered mapping
            of globs on parameter names to numbers, of which the first match counts. None chooses T by the schedule.
        a: factor of T at or below which a kept unit is pruned, above 0.
        b: factor of T above which a pruned unit returns, at least ``a``.
        gamma: rate at which the probability of an update falls with the step, with ``c``; 0 updates always.
        power: exponent of that fall.
        scope: how the sparsity is distributed over targets, without ``c``, as for ``topk``.

    Raises:
        TypeError: a setting is of the wrong type.
        ValueError: a setting is out of range, or a target matches no glob of ``c``.

    Source: Guo, Yao, Chen, "Dynamic Network Surgery for Efficient DNNs" (2016), equations 3 and 4, and the authors'
    code for the constants.

    Example:
        Scores around T = 1: of three kept units the first is pruned, of three pruned ones the last returns.

        >>> import torch
        >>> scores, kept = torch.tensor([0.8, 1.0, 1.2, 0.8, 1.0, 1.2]), torch.tensor([True] * 3 + [False] * 3)
        >>> adjusted = Hysteresis(c=1.0, gamma=0.0).adjust_scores(scores, kept, seed=0, step=1)
        >>> (adjusted > 1.0).tolist()
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
        TopK(self.scope)  # raises where the scope is unknown

    @property
    def exact(self) -> bool:
        """Whether T follows the scheduled sparsity."""
        return self.c is None

    def adjust_scores(self, scores: Tensor, kept: Tensor, seed: int, step: int) -> Tensor:
        """Return ``score / a`` of kept units and ``score / b`` of pruned ones, so that one cut at T decides both.

        In a target that the random draw leaves out of this update, kept units get a score above any other and pruned
        units one below, so that nothing changes.
        """
        if not self._takes_part(seed, step):
            best = min(_BEST, torch.finfo(scores.dtype).max)
            return torch.where(kept, best, -best).to(scores.dtype)
        return torch.where(kept, scores / self.a, scores / self.b)

    def cut(self, scores: Sequence[Scores], sparsity: float) -> list[Cut]:
        """Return the cut of each target, measuring T of the targets that have none yet."""
        if self.c is None:
            return self._topk.cut(scores, sparsity)
        # A T measured by an update that fails later may stay: it depends on the target's own scores alone.
        for s in scores:
            if s.memory["threshold"] == _NOT_MEASURED and self._takes_part(s.seed, s.step):
                s.memory["threshold"].fill_(self.value(s))
        return super().cut(scores, sparsity)

    def value(self, scores: Scores) -> float:
        """Return T of a target, from its memory or else measured; all units are kept while it is not measured yet."""
        if not self._takes_part(scores.seed, scores.step):
            return 0.0
        stored = float(scores.memory["threshold"])
        if stored != _NOT_MEASURED:
            return stored
        mean, std = moments(scores)
        return max(self.a * (mean + self._c_of(scores.name) * std), 0.0)

    def cut_to_count(self, keep: int, scores: Sequence[Scores]) -> list[Cut]:
        """Return the cuts that keep exactly ``keep`` units, distributed over targets by ``scope``."""
        return self._topk.cut_to_count(keep, scores)

    def select_grown(self, count: int, growth_scores: Sequence[Scores], kept: Sequence[int]) -> list[Cut]:
        """Return the cuts that select ``count`` pruned units to return, distributed over targets by ``scope``."""
        return self._topk.select_grown(count, growth_scores, kept)

    def init_memory(self, target: Target) -> dict[str, Tensor]:
        """Return ``threshold``: T as float64, -1 until it is measured; empty without ``c``."""
        return {} if self.c is None else {"threshold": torch.tensor(_NOT_MEASURED, dtype=torch.float64)}

    def final_sparsity(self, targets: Sequence[Target], sparsity: float | None) -> float | None:
        """Return the sparsity to reach at the end, or with ``c`` its upper limit."""
        if self.c is None:
            return self._topk.final_sparsity(targets, sparsity)
        for target in targets:
            self._c_of(target.name)
        return super().final_sparsity(targets, sparsity)

    @property
    def _topk(self) -> TopK:
        return TopK(self.scope)

    def _takes_part(self, seed: int, step: int) -> bool:
        """Return whether the random draw lets a target take part in this update."""
        return self.c is None or seed * _SEED_SCALE < (1 + self.gamma * step) ** -self.power

    def _c_of(self, name: str) -> float:
        if not isinstance(self.c, Mapping):
            return self.c or 0.0
        for glob, value in self.c.items():
            if fnmatchcase(name, glob):
                return value
        raise ValueError(
            f"threshold hysteresis: c has no entry for {name}; there are {', '.join(self.c)}. "
            "Add one, or '*' for the rest"
        )
