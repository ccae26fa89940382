"""Schedules: decide when the masks are updated, and the sparsity of each update.

Imports base.
"""

from lightning_dynprune.schedules.acdc import ACDC
from lightning_dynprune.schedules.base import SCHEDULES, Clock, Horizon, Schedule, Span
from lightning_dynprune.schedules.constant import Constant, OneShot
from lightning_dynprune.schedules.cosine import Cosine
from lightning_dynprune.schedules.exponential import Exponential
from lightning_dynprune.schedules.polynomial import Cubic, Linear
from lightning_dynprune.schedules.settings import resolve_settings, settings_at
from lightning_dynprune.schedules.sparsity import sparsity_schedule

__all__ = [
    "ACDC",
    "SCHEDULES",
    "Clock",
    "Constant",
    "Cosine",
    "Cubic",
    "Exponential",
    "Horizon",
    "Linear",
    "OneShot",
    "Schedule",
    "Span",
    "resolve_settings",
    "settings_at",
    "sparsity_schedule",
]
