"""Strategies: score connections, and decide whether pruned connections return.

Imports schedules, selection, targets and base.
"""

from lightning_dynprune.strategies.base import STRATEGIES, Strategy
from lightning_dynprune.strategies.default_parts import with_default
from lightning_dynprune.strategies.fisher import Fisher
from lightning_dynprune.strategies.magnitude import Magnitude
from lightning_dynprune.strategies.movement import Movement
from lightning_dynprune.strategies.random import Random, uniform_scores
from lightning_dynprune.strategies.rigl import RigL
from lightning_dynprune.strategies.set import SET
from lightning_dynprune.strategies.sigmoid import Sigmoid
from lightning_dynprune.strategies.snip import SNIP
from lightning_dynprune.strategies.static import Static
from lightning_dynprune.strategies.straight_through import StraightThrough
from lightning_dynprune.strategies.surgery import Surgery
from lightning_dynprune.strategies.taylor import Taylor
from lightning_dynprune.strategies.wanda import Wanda

__all__ = [
    "SET",
    "SNIP",
    "STRATEGIES",
    "Fisher",
    "Magnitude",
    "Movement",
    "Random",
    "RigL",
    "Sigmoid",
    "Static",
    "StraightThrough",
    "Strategy",
    "Surgery",
    "Taylor",
    "Wanda",
    "uniform_scores",
    "with_default",
]
