"""The cut that meets a sparsity exactly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lightning_dynprune.selection import Cut, Scores, cut, cut_each
from lightning_dynprune.targets import Target
from lightning_dynprune.thresholds.base import THRESHOLDS, Threshold, units_kept

SCOPES = ("global", "uniform", "erk", "layer")


@THRESHOLDS.register("topk")
@dataclass(frozen=True)
class TopK(Threshold):
    """Keeps the best-scored units, as many as the scheduled sparsity leaves, to the unit.

    Args:
        scope: how the sparsity is shared out. ``global``: one cut over all targets. ``uniform``: the same density
            everywhere. ``erk``: density_l proportional to sum(shape_l) / prod(shape_l), at most 1, so that large layers
            are sparser. ``layer``: every target has its own sparsity, set in ``targets``; on the way there all of them
            are the same share of it.

    Raises:
        ValueError: an unknown scope.

    Source: erk: Evci et al., "Rigging the Lottery" (2020), section 3.

    Example:
        >>> import torch
        >>> a, b = Scores.from_tensor("a", torch.tensor([1.0, 2.0])), Scores.from_tensor("b", torch.tensor([3.0, 4.0]))
        >>> [c.kept for c in TopK("global").cut([a, b], 0.5)], [c.kept for c in TopK("uniform").cut([a, b], 0.5)]
        ([1, 1], [1, 1])
        >>> [c.kept for c in TopK("global").cut([a, b], 0.25)]
        [1, 2]
    """

    scope: str = "global"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scope not in SCOPES:
            raise ValueError(f"threshold topk: scope={self.scope!r} is unknown; known: {', '.join(SCOPES)}")

    @property
    def exact(self) -> bool:
        """Yes."""
        return True

    def cut(self, scores: Sequence[Scores], sparsity: float) -> list[Cut]:
        """Return where each target is cut."""
        return self.cut_to_count(units_kept(scores, sparsity), scores)

    def cut_to_count(self, keep: int, scores: Sequence[Scores]) -> list[Cut]:
        """Return the cuts that keep ``keep`` units in all, shared out by the scope."""
        if self.scope == "global":
            return cut(keep, scores)
        floors, caps = [s.effective_min_kept for s in scores], [s.max_kept for s in scores]
        counts = allocate(keep, self._wanted(scores, keep), floors, caps)
        return cut_each(counts, scores)

    def select_grown(self, room: int, worth: Sequence[Scores], kept: Sequence[int]) -> list[Cut]:
        """Return which pruned units fill ``room``, shared out so that all that live then are as the scope has it."""
        if self.scope == "global":
            return cut(room, worth)
        keep = sum(kept) + room
        caps = [k + s.candidates for k, s in zip(kept, worth, strict=True)]
        counts = allocate(keep, self._wanted(worth, keep), kept, caps)
        return cut_each([count - k for count, k in zip(counts, kept, strict=True)], worth)

    def final_sparsity(self, targets: Sequence[Target], sparsity: float | None) -> float | None:
        """Return the sparsity to end at; in the scope ``layer``, what the targets' own amount to."""
        if self.scope != "layer":
            return super().final_sparsity(targets, sparsity)
        if missing := [target.name for target in targets if target.sparsity is None]:
            raise ValueError(
                f"threshold topk: scope='layer' needs a sparsity for {missing[0]}; give one in targets, such as "
                f"targets={{{missing[0]!r}: 0.8}}, or '*' for the rest"
            )
        total = sum(target.numel for target in targets)
        planned = sum(target.numel * (target.sparsity or 0.0) for target in targets) / total
        if sparsity is not None and abs(sparsity - planned) * total > 1:
            raise ValueError(
                f"sparsity={sparsity!r} does not agree with the targets' own, which amount to {planned:.6g}; "
                "leave sparsity out with scope='layer'"
            )
        return planned

    def _wanted(self, scores: Sequence[Scores], keep: int) -> list[float]:
        if self.scope == "uniform":
            return [float(s.units) for s in scores]
        if self.scope == "erk":
            return [float(sum(s.shape)) for s in scores]
        units = sum(s.units for s in scores)
        planned = sum(s.units * (s.sparsity or 0.0) for s in scores)
        done = (units - keep) / planned if planned else 0.0
        return [s.units * (1 - min((s.sparsity or 0.0) * done, 1.0)) for s in scores]


def allocate(keep: int, wanted: Sequence[float], floors: Sequence[int], caps: Sequence[int]) -> list[int]:
    """Share ``keep`` units out in proportion to ``wanted``, each within its floor and cap.

    The shares are ``clip(scale * wanted, floor, cap)`` with the one scale that makes them add up; what rounding leaves
    goes to the largest remainders. Where the floors alone add up to more than ``keep``, they win.

    Example:
        >>> allocate(10, [1.0, 1.0, 8.0], floors=[1, 1, 1], caps=[100, 100, 4])
        [3, 3, 4]
    """
    keep = min(max(keep, sum(floors)), sum(caps))

    def shares(scale: float) -> list[float]:
        return [min(max(scale * w, low), high) for w, low, high in zip(wanted, floors, caps, strict=True)]

    # A share this small rounds to nothing beside the others, and keeps the scale finite.
    wanted = [max(w, 1e-9 * max(wanted), 1e-300) for w in wanted]
    low, high = 0.0, 2.0 * max(c / w for c, w in zip(caps, wanted, strict=True))
    while math.nextafter(low, high) < high:
        middle = (low + high) / 2
        low, high = (middle, high) if sum(shares(middle)) < keep else (low, middle)
    exact = shares(high)
    counts = [math.floor(x + 1e-9) for x in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: counts[i] - exact[i])
    while (left := keep - sum(counts)) != 0:
        step = 1 if left > 0 else -1
        limits = caps if left > 0 else floors
        movable = [i for i in (by_remainder if left > 0 else by_remainder[::-1]) if counts[i] != limits[i]]
        for i in movable[: abs(left)]:
            counts[i] += step
    return counts
