"""Measure a pruned model against its dense baseline: latency, size, memory, multiply-adds.

May import all of deploy but deploy.forecast.
"""

from lightning_dynprune.deploy.measurement.measuring import device_name, examples_by_batch, measure
from lightning_dynprune.deploy.measurement.report import NOT_MEASURED, reason_lines

__all__ = ["NOT_MEASURED", "device_name", "examples_by_batch", "measure", "reason_lines"]
