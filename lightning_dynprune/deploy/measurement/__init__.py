"""Measure a pruned model against its dense baseline: latency, size, memory, multiply-adds.

May import every sub-room of deploy but deploy.forecast.
"""

from lightning_dynprune.deploy.measurement.macs import count_macs
from lightning_dynprune.deploy.measurement.measuring import device_name, examples_by_batch, measure
from lightning_dynprune.deploy.measurement.memory import peak_memory
from lightning_dynprune.deploy.measurement.report import NOT_MEASURED, DeployReport, Row, reason_lines
from lightning_dynprune.deploy.measurement.width_multiples import WidthMultiples, measure_width_multiples

__all__ = [
    "NOT_MEASURED",
    "DeployReport",
    "Row",
    "WidthMultiples",
    "count_macs",
    "device_name",
    "examples_by_batch",
    "measure",
    "measure_width_multiples",
    "peak_memory",
    "reason_lines",
]
