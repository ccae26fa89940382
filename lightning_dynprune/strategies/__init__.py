"""Strategies: what a connection is worth."""

from lightning_dynprune.strategies.base import STRATEGIES, Strategy
from lightning_dynprune.strategies.magnitude import Magnitude
from lightning_dynprune.strategies.random import Random
from lightning_dynprune.strategies.sigmoid import Sigmoid
from lightning_dynprune.strategies.taylor import Taylor

__all__ = ["STRATEGIES", "Magnitude", "Random", "Sigmoid", "Strategy", "Taylor"]
