"""Measure a pruned model against its dense baseline: latency, size, memory, multiply-adds.

May import all of deploy but deploy.forecast.
"""

from lightning_dynprune.deploy.measurement.measuring import batched, described, measure
from lightning_dynprune.deploy.measurement.report import NOT_MEASURED, reasons
from lightning_dynprune.deploy.measurement.variants import given

__all__ = ["NOT_MEASURED", "batched", "described", "given", "measure", "reasons"]
