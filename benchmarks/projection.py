"""Formula for the messages and memory of one update, compared with counted values and used beyond them.

All numbers are those of one process. The pattern is ``element``; parameters are sharded as FSDP2 does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from messages import Traffic

DIGIT = 11  # bits
COUNTS = 2**DIGIT * 8  # bytes: one count of 8 bytes for each value of a digit
CUTS = {"magnitude": 1, "rigl": 2, "rigl, erk": 2}  # what lives is cut, and what returns
BY_TARGET = {"rigl, erk"}  # every target is cut by itself, all side by side
STATE = {"magnitude": 0, "rigl": 0, "rigl, erk": 0, "straight_through": 4, "taylor": 4}  # bytes a connection


@dataclass(frozen=True)
class Case:
    """The numbers of one training that the formula depends on.

    Attributes:
        ranks: number of processes.
        connections: number of connections of all targets.
        targets: number of targets.
        here: connections in the largest part that a process holds.
        in_parts: whether parameters are sharded, as FSDP2 does, or replicated, as DDP does.
    """

    ranks: int
    connections: int
    targets: int
    here: int
    in_parts: bool


def sample_size(case: Case, strategy: str) -> int:
    """Return the largest number of sampled scores for a cut, over all processes."""
    units, lots = case.connections, case.targets if strategy in BY_TARGET else 1
    size = 2**12 if units < 2**19 else 2**14 if units < 2**22 else 2**17 if units < 2**25 else 2**18
    return lots * min(size, max(2**22 // lots, 2**12))


def update(case: Case, strategy: str, passes: int | None = None, digits_of_ties: int = 0) -> dict[str, Traffic]:
    """Return the messages of one update, by purpose.

    Two numbers depend on the data: the passes over the scores, almost surely one per cut, and the digits that decide
    which of the units with exactly the cut's score stay. The sample has its full size if all units are candidates, and
    is smaller otherwise. If every target is cut by itself the bytes are an upper bound: dense targets are not searched.

    Args:
        case: the training.
        strategy: a key of ``CUTS``.
        passes: passes over the scores, for all cuts together.
        digits_of_ties: digits of 11 bits that resolve ties.
    """
    ranks, targets, cuts = case.ranks, case.targets, CUTS[strategy]
    if ranks == 1:
        return {}
    if not case.in_parts:
        # Every process holds all parameters: each finds the cut alone, and they compare checksums of the masks.
        return {
            "error flags": Traffic().add(8, ranks, True),
            "checksums": Traffic().add(16 * (targets + 1), ranks, False),  # and an error flag
        }
    passes = cuts if passes is None else passes
    lots = targets if strategy in BY_TARGET else 1
    drawn = lots * math.ceil(sample_size(case, strategy) / lots * case.here / case.connections)
    digits = Traffic().add(lots * COUNTS, ranks, True, math.ceil(32 / DIGIT) * cuts)
    counts = Traffic().add(16 * targets + 8, ranks, True, cuts)  # and an error flag
    if cuts == 2:
        counts.add(8 * targets + 8, ranks, True)  # what stayed from before
    sample = Traffic().add(8 * lots, ranks, False, cuts).add(4 * drawn, ranks, False, cuts)
    found = {
        "error flags": Traffic().add(8, ranks, True, 1 + cuts + passes),
        "sample": sample,
        "counts of the bracket": Traffic().add(16 * targets, ranks, True, passes),
        "digits of the cut": digits,
        "counts at the cut": Traffic().add(16 * targets, ranks, True, cuts),
        "counts of new masks": counts,
        "checksums": Traffic().add(16 * (targets + 2), ranks, False),
    }
    if digits_of_ties:
        found["places of ties"] = Traffic().add(lots * COUNTS, ranks, True, digits_of_ties)
    return found


def held(case: Case, strategy: str) -> dict[str, float]:
    """Return the bytes that one process holds for pruning: permanently, during an update, and for a checkpoint."""
    lots = case.targets if strategy in BY_TARGET else 1
    drawn = sample_size(case, strategy)
    of_one = drawn / lots
    collected = 2 * (6 * math.sqrt(of_one) / 2 + 1) / of_one  # at a density of one half, where the bracket is widest
    return {
        "always: masks": case.here,
        "always: state of the strategy": STATE[strategy] * case.here,
        "update: sample": 4 * drawn,
        "update: inside the bracket": 8 * collected * case.here,
        "update: counts of a digit": lots * COUNTS,
        "update: checksums of all processes": 16 * (case.targets + 2) * case.ranks,
        "checkpoint: masks, whole": case.connections / 8,
        "checkpoint: state of the strategy, whole": STATE[strategy] * case.connections,
    }
