"""Latency of several models, timed in turns.

May import base.
"""

from lightning_dynprune.deploy.timing.gc_freeze import settled_heap
from lightning_dynprune.deploy.timing.latency import Clock, Latency, Ratio, Rounds, clock_of, latencies, take_turns

__all__ = ["Clock", "Latency", "Ratio", "Rounds", "clock_of", "latencies", "settled_heap", "take_turns"]
