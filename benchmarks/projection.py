"""What an update sends and holds, from numbers alone: the formula that is held to what was counted, and goes further.

All of it is what one process sends or holds. Targets are element patterns cut globally; in parts as FSDP2 has them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from messages import Traffic

DIGIT = 11  # bits
COUNTS = 2**DIGIT * 8  # bytes: one count of 8 bytes for each value of a digit
CUTS = {"magnitude": 1, "rigl": 2}  # what lives is cut, and what returns
STATE = {"magnitude": 0, "rigl": 0, "straight_through": 4, "taylor": 4}  # bytes a connection, beside the mask


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


def sample_size(units: int) -> int:
    """Return how many scores the sample of a cut over ``units`` has, over all processes."""
    return 2**12 if units < 2**19 else 2**14 if units < 2**22 else 2**17 if units < 2**25 else 2**18


def update(case: Case, strategy: str, passes: int | None = None, digits_of_ties: int = 0) -> dict[str, Traffic]:
    """Return the messages of one update, by purpose.

    Two numbers are the data's: how many passes found the cut, almost surely one a cut, and how many digits told which
    of the units that score just that stay. The sample is what is sent where all units are candidates; less elsewhere.

    Args:
        case: the training.
        strategy: "magnitude" or "rigl".
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
    drawn = math.ceil(sample_size(case.connections) * case.here / case.connections)
    counts = Traffic().add(16 * targets, ranks, True, cuts)
    if cuts == 2:
        counts.add(8 * targets, ranks, True)  # what stayed from before
    sample = Traffic().add(8, ranks, False, cuts).add(4 * drawn, ranks, False, cuts)
    found = {
        "error flags": Traffic().add(8, ranks, True, 1 + cuts + passes),
        "sample": sample,
        "counts of the bracket": Traffic().add(16 * targets, ranks, True, passes),
        "digits of the cut": Traffic().add(COUNTS, ranks, True, math.ceil(32 / DIGIT) * cuts),
        "counts at the cut": Traffic().add(16 * targets, ranks, True, cuts),
        "counts of new masks": counts,
        "checksums": Traffic().add(16 * (targets + 1), ranks, False),
    }
    if digits_of_ties:
        found["places of ties"] = Traffic().add(COUNTS, ranks, True, digits_of_ties)
    return found


def held(case: Case, strategy: str) -> dict[str, float]:
    """Return the bytes that one process holds for pruning: all the time, in an update, and for a checkpoint."""
    drawn = sample_size(case.connections)
    collected = 2 * (6 * math.sqrt(drawn) / 2 + 1) / drawn  # at a density of one half, where the bracket is widest
    return {
        "always: masks": case.here,
        "always: state of the strategy": STATE[strategy] * case.here,
        "update: sample": 4 * drawn,
        "update: inside the bracket": 8 * collected * case.here,
        "update: counts of a digit": COUNTS,
        "update: checksums of all processes": 16 * (case.targets + 1) * case.ranks,
        "checkpoint: masks, whole": case.connections / 8,
        "checkpoint: state of the strategy, whole": STATE[strategy] * case.connections,
    }
