"""Time calls of several models in interleaved rounds.

May import base.
"""

from lightning_dynprune.deploy.timing.gc_freeze import gc_frozen
from lightning_dynprune.deploy.timing.latency import (
    Clock,
    Latency,
    Ratio,
    Rounds,
    latencies,
    ratio_clock,
    time_call,
    time_interleaved,
    wall_seconds,
)

__all__ = [
    "Clock",
    "Latency",
    "Ratio",
    "Rounds",
    "gc_frozen",
    "latencies",
    "ratio_clock",
    "time_call",
    "time_interleaved",
    "wall_seconds",
]
