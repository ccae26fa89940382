"""Turn masks into savings: smaller files, narrower models, faster kernels, exported files, and measurements of them.

May import every room but app, callback, report and adaptive.
"""

from lightning_dynprune.deploy.compact import load_compact, save_compact
from lightning_dynprune.deploy.exporting import Exported, export
from lightning_dynprune.deploy.forecast import preflight
from lightning_dynprune.deploy.kernels import Accelerated, accelerate, apply_choice, restore
from lightning_dynprune.deploy.measurement import WidthMultiples, measure, measure_width_multiples
from lightning_dynprune.deploy.slimming import SlimError, Slimmed, load, recalibrate, save, slim

__all__ = [
    "Accelerated",
    "Exported",
    "SlimError",
    "Slimmed",
    "WidthMultiples",
    "accelerate",
    "apply_choice",
    "export",
    "load",
    "load_compact",
    "measure",
    "measure_width_multiples",
    "preflight",
    "recalibrate",
    "restore",
    "save",
    "save_compact",
    "slim",
]
