"""Forecast, before any training, which pattern and sparsity makes a model faster on this machine.

May import all of deploy.
"""

from lightning_dynprune.deploy.forecast.forecasting import DEFAULTS, preflight

__all__ = ["DEFAULTS", "preflight"]
