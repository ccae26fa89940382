"""What an update sends and holds, from numbers alone: the formula that is held to what was counted, and goes further.

All of it is what one process sends or holds. The pattern is ``element``; parts are those of FSDP2.
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
    """One training.

    Attributes:
        ranks: processes.
        connections: of all targets.
        targets: how many.
        here: connections of the largest part that a process holds.
        in_parts: held in parts, as FSDP2 does; else whole by every process, as DDP does.
    """

    ranks: int
    connections: int
    targets: int
    here: int
    in_parts: bool


def sample_size(case: Case, strategy: str) -> int:
    """Return how many scores the samples of a cut have at most, over all processes."""
    units, lots = case.connections, case.targets if strategy in BY_TARGET else 1
    size = 2**12 if units < 2**19 else 2**14 if units < 2**22 else 2**17 if units < 2**25 else 2**18
    return lots * min(size, max(2**22 // lots, 2**12))


def update(case: Case, strategy: str, passes: int | None = None, digits_of_ties: int = 0) -> dict[str, Traffic]:
    """Return the messages of one update, by purpose.

    Two numbers are the data's: how many passes found the cut, almost surely one a cut, and how many digits told which
    of the units that score just that stay. The sample is what is sent where all units are candidates; less elsewhere.
    Where every target is cut by itself the bytes are the most there can be: what stays dense is not searched.

    Args:
        case: the training.
        strategy: a key of ``CUTS``.
        passes: over the scores, for all cuts.
        digits_of_ties: of 11 bits.
    """
    ranks, targets, cuts = case.ranks, case.targets, CUTS[strategy]
    if ranks == 1:
        return {}
    if not case.in_parts:
        # Every process holds everything: it finds the cut by itself, and they compare what they have found.
        return {
            "error flags": Traffic().add(8, ranks, True),
            "checksums": Traffic().add(16 * targets, ranks, False),
        }
    passes = cuts if passes is None else passes
    lots = targets if strategy in BY_TARGET else 1
    drawn = lots * math.ceil(sample_size(case, strategy) / lots * case.here / case.connections)
    digits = Traffic().add(lots * COUNTS, ranks, True, math.ceil(32 / DIGIT) * cuts)
    counts = Traffic().add(16 * targets, ranks, True, cuts)
    if cuts == 2:
        counts.add(8 * targets, ranks, True)  # what stayed from before
    sample = Traffic().add(8 * lots, ranks, False, cuts).add(4 * drawn, ranks, False, cuts)
    found = {
        "error flags": Traffic().add(8, ranks, True, 1 + cuts + passes),
        "sample": sample,
        "counts of the bracket": Traffic().add(16 * targets, ranks, True, passes),
        "digits of the cut": digits,
        "counts at the cut": Traffic().add(16 * targets, ranks, True, cuts),
        "counts of new masks": counts,
        "checksums": Traffic().add(16 * (targets + 1), ranks, False),
    }
    if digits_of_ties:
        found["places of ties"] = Traffic().add(lots * COUNTS, ranks, True, digits_of_ties)
    return found


def held(case: Case, strategy: str) -> dict[str, float]:
    """Return the bytes that one process holds for pruning: all the time, in an update, and for a checkpoint."""
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
        "update: checksums of all processes": 16 * (case.targets + 1) * case.ranks,
        "checkpoint: masks, whole": case.connections / 8,
        "checkpoint: state of the strategy, whole": STATE[strategy] * case.connections,
    }
