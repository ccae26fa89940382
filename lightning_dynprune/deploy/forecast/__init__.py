"""Forecast, before any training, which pattern and sparsity makes a model faster on this machine.

May import every sub-room of deploy, and the axes' rooms.
"""

from lightning_dynprune.deploy.forecast.forecast_result import Cell, Forecast
from lightning_dynprune.deploy.forecast.forecasting import DEFAULTS, preflight
from lightning_dynprune.deploy.forecast.random_masks import randomly_pruned

__all__ = ["DEFAULTS", "Cell", "Forecast", "preflight", "randomly_pruned"]
