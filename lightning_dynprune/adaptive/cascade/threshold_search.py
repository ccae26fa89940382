"""Choose the confidences at which inputs take a classifier of a cascade, by search over held-out inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# The first thresholds are tried at every distinct confidence while that takes at most this many values in all, and at
# evenly spaced ranks otherwise; the last threshold is exact always.
_MOST_VALUES = 2**25
_NEVER = math.inf
_ROUNDS = 8  # of improving one threshold after the other
BUDGET_BAND = 0.02  # a budget is met if the mean compute is at most this share below it


@dataclass(frozen=True)
class HeldOut:
    """The confidences and answers of the exits and the end of a network on held-out inputs.

    Args:
        confidences: of each exit, float64 ``(exits, n)``; NaN is never confident.
        correct: whether each exit is right, bool ``(exits, n)``.
        final_correct: whether the end is right, bool ``(n,)``.
        costs: multiply-adds of an input that leaves at each exit, and at the end, as shares of the dense network's;
            increasing.
    """

    confidences: Tensor
    correct: Tensor
    final_correct: Tensor
    costs: tuple[float, ...]

    @property
    def count(self) -> int:
        """Number of held-out inputs."""
        return self.final_correct.numel()


@dataclass(frozen=True)
class Chosen:
    """Thresholds, and what they give on the held-out inputs.

    Args:
        thresholds: the least confidence at which each exit is taken; inf: never.
        compute: mean multiply-adds as a share of the dense network's.
        drop: accuracy of the dense network minus that with exits.
        error: standard error of ``drop``.
    """

    thresholds: tuple[float, ...]
    compute: float
    drop: float
    error: float


def exits_taken(confidences: Tensor, thresholds: Sequence[float]) -> Tensor:
    """Return the exit that each input takes: the first that is confident enough, or the end.

    Args:
        confidences: of each exit, ``(exits, n)``.
        thresholds: one an exit.

    Returns:
        int64 ``(n,)``; the number of exits where an input runs to the end.

    Example:
        >>> exits_taken(torch.tensor([[0.9, 0.2, 0.2], [0.1, 0.8, torch.nan]]), [0.5, 0.7]).tolist()
        [0, 1, 2]
    """
    limits = torch.tensor(thresholds, dtype=torch.float64, device=confidences.device)[:, None]
    takes = confidences.double() >= limits
    ends = torch.ones_like(takes[:1]) if len(takes) else torch.ones(1, confidences.shape[1], dtype=torch.bool)
    return torch.cat([takes, ends]).int().argmax(0)


def judge(held_out: HeldOut, thresholds: Sequence[float]) -> Chosen:
    """Return what thresholds give on the held-out inputs."""
    taken = exits_taken(held_out.confidences, thresholds)
    right = torch.cat([held_out.correct, held_out.final_correct[None]]).gather(0, taken[None])[0]
    compute = float(torch.tensor(held_out.costs, dtype=torch.float64)[taken].mean())
    lost = int((held_out.final_correct & ~right).sum())
    won = int((right & ~held_out.final_correct).sum())
    drop, error = _drop(torch.tensor(lost), torch.tensor(won), held_out.count)
    return Chosen(tuple(thresholds), compute, float(drop), float(error))


def for_largest_drop(held_out: HeldOut, max_drop: float, margin: float = 1.0) -> Chosen:
    r"""Return the thresholds of least mean compute whose drop of accuracy is certain enough to be within a limit.

    .. math:: \bar d + m \sqrt{\frac{\overline{d^2} - \bar d^2}{n}} \le d_{max}

    with :math:`d` of each input 1 where only the dense network is right, -1 where only the exits are, and 0 otherwise.

    Args:
        held_out: of the network.
        max_drop: largest drop of accuracy, in [0, 1].
        margin: number of standard errors of the drop that are added to it, m.

    Returns:
        The thresholds; all inf, so that every input runs to the end, where no exit is good enough.

    Example:
        One exit, right whenever it is sure, and half the compute:

        >>> sure = torch.tensor([[1.0, 0.75, 0.25, 0.125]], dtype=torch.float64)
        >>> right = torch.tensor([[True, True, False, True]])
        >>> for_largest_drop(HeldOut(sure, right, torch.ones(4, dtype=torch.bool), (0.5, 1.0)), 0.0)
        Chosen(thresholds=(0.5,), compute=0.75, drop=0.0, error=0.0)
    """

    def worth(compute: Tensor, lost: Tensor, won: Tensor) -> Tensor:
        drop, error = _drop(lost, won, held_out.count)
        return torch.where(drop + margin * error <= max_drop + 1e-12, -compute, -math.inf)

    return _search(held_out, worth)


def for_budget(held_out: HeldOut, budget: float) -> Chosen:
    """Return the most accurate thresholds whose mean compute is the budget, to 2 %, and no more than it.

    Args:
        held_out: of the network.
        budget: mean multiply-adds as a share of the dense network's, in (0, 1].

    Raises:
        ValueError: even the first exit alone costs more; the message says how much.
    """
    if budget < held_out.costs[0]:
        raise ValueError(
            f"budget={budget:g} is out of reach: if every input takes the cheapest way, the mean is "
            f"{held_out.costs[0]:.4f} of the multiply-adds; give at least that, or a cheaper way"
        )

    def worth(compute: Tensor, lost: Tensor, won: Tensor) -> Tensor:
        accuracy = (won - lost).double() / held_out.count
        # Compute below the band is worth less than any accuracy within it, and the more the closer.
        below = torch.where(compute >= (1 - BUDGET_BAND) * budget, 0.0, 4.0 + 4.0 * (budget - compute))
        return torch.where(compute <= budget + 1e-12, accuracy - below - 1e-9 * compute, -math.inf)

    return _search(held_out, worth)


Worth = Callable[[Tensor, Tensor, Tensor], Tensor]


def _drop(lost: Tensor, won: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the drop of accuracy and its standard error, from the numbers of inputs lost and won."""
    mean = (lost - won).double() / max(1, count)
    return mean, (((lost + won).double() / max(1, count) - mean.square()).clamp(min=0) / max(1, count)).sqrt()


def _search(held_out: HeldOut, worth: Worth) -> Chosen:
    """Return the thresholds of highest worth."""
    exits = len(held_out.confidences)
    best = tuple([_NEVER] * exits)
    best_worth = _worth_of(held_out, best, worth)
    candidates = _candidates(held_out)
    for first in _combinations(candidates[:-1]):
        last, value = _best_at(held_out, [*first, _NEVER], exits - 1, worth)
        if value > best_worth:
            best, best_worth = (*first, last), value
    for _ in range(_ROUNDS):
        before = best_worth
        for position in range(exits):
            found, value = _best_at(held_out, best, position, worth)
            if value > best_worth:
                best, best_worth = (*best[:position], found, *best[position + 1 :]), value
        if best_worth == before:
            break
    return judge(held_out, best)


def _worth_of(held_out: HeldOut, thresholds: Sequence[float], worth: Worth) -> float:
    chosen = judge(held_out, thresholds)
    taken = exits_taken(held_out.confidences, thresholds)
    right = torch.cat([held_out.correct, held_out.final_correct[None]]).gather(0, taken[None])[0]
    lost, won = (held_out.final_correct & ~right).sum(), (right & ~held_out.final_correct).sum()
    return float(worth(torch.tensor(chosen.compute, dtype=torch.float64), lost, won))


def _candidates(held_out: HeldOut) -> list[list[float]]:
    """Return thresholds to try for each exit but the last: between all distinct confidences, or at some ranks."""
    earlier = len(held_out.confidences) - 1
    tried: list[list[float]] = []
    for number, row in enumerate(held_out.confidences):
        values = _between(row[row.isfinite()].unique())
        most = int((_MOST_VALUES / max(1, held_out.count)) ** (1 / earlier)) if earlier else 1
        most = max(4, most // 4 if earlier > 1 and number == 0 else most)
        if len(values) > most:
            values = values[torch.linspace(0, len(values) - 1, most).round().long()]
        tried.append(values.tolist())
    return tried


def _between(distinct: Tensor) -> Tensor:
    """Return a threshold just below each of several distinct confidences, half-way to the next lower, and never."""
    if not len(distinct):
        return torch.tensor([_NEVER], dtype=torch.float64)
    lower = torch.cat([distinct[:1] - 1e-3, distinct[:-1]])
    return torch.cat([(lower + distinct) / 2, torch.tensor([_NEVER], dtype=torch.float64)])


def _combinations(candidates: Sequence[Sequence[float]]) -> Iterator[tuple[float, ...]]:
    if not candidates:
        yield ()
        return
    for first in candidates[0]:
        for rest in _combinations(candidates[1:]):
            yield (first, *rest)


def _best_at(held_out: HeldOut, thresholds: Sequence[float], position: int, worth: Worth) -> tuple[float, float]:
    """Return the best threshold of one exit and its worth, the other thresholds fixed, over all distinct confidences.

    The inputs that reach the exit are sorted by their confidence there. A threshold lets the first of them leave, so
    that sums over the first k give the figures of every threshold at once.
    """
    costs = torch.tensor(held_out.costs, dtype=torch.float64)
    others = [*thresholds[:position], _NEVER, *thresholds[position + 1 :]]
    elsewhere = exits_taken(held_out.confidences, others)
    right = torch.cat([held_out.correct, held_out.final_correct[None]])
    right_elsewhere = right.gather(0, elsewhere[None])[0]
    final, here, row = held_out.final_correct, held_out.correct[position], held_out.confidences[position]
    reaches = (elsewhere > position) & row.isfinite()
    order = row.masked_fill(~reaches, -1.0).argsort(descending=True, stable=True)[: int(reaches.sum())]
    spent = costs[elsewhere]
    lost, won = final & ~right_elsewhere, right_elsewhere & ~final
    compute = _after_each(spent.sum(), (costs[position] - spent)[order]) / max(1, held_out.count)
    lost_after = _after_each(lost.sum(), ((final & ~here).long() - lost.long())[order])
    won_after = _after_each(won.sum(), ((here & ~final).long() - won.long())[order])
    sorted_row = row[order]
    # After k inputs the threshold lies between the k-th and the next, which equal confidences do not allow.
    is_possible = torch.ones(len(order) + 1, dtype=torch.bool)
    is_possible[1:-1] = sorted_row[1:] < sorted_row[:-1]
    values = worth(compute, lost_after, won_after).masked_fill(~is_possible, -math.inf)
    k = int(values.argmax())
    if k == 0:
        return _NEVER, float(values[0])
    below = sorted_row[k] if k < len(order) else sorted_row[k - 1] - 1e-3
    return _threshold(below, sorted_row[k - 1]), float(values[k])


def _threshold(below: Tensor, above: Tensor) -> float:
    """Return a number of float32 between two confidences, or the upper one where there is none between them.

    Confidences are compared in float32 when the network runs.
    """
    middle = ((below + above) / 2).float().double()
    return float(middle if below < middle <= above else above)


def _after_each(start: Tensor, changes: Tensor) -> Tensor:
    """Return a sum before and after each of several changes."""
    return torch.cat([start.reshape(1), start + changes.cumsum(0)])
