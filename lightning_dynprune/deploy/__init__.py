"""From masks to savings: smaller files, narrower networks, faster kernels, exports and what all of it measures."""

from lightning_dynprune.deploy.accelerate import Accelerated, accelerate
from lightning_dynprune.deploy.compact import load_compact, save_compact
from lightning_dynprune.deploy.export import Exported, export
from lightning_dynprune.deploy.kernels.choice import apply_choice, restore
from lightning_dynprune.deploy.saved import load, save
from lightning_dynprune.deploy.slim import SlimError, slim
from lightning_dynprune.deploy.slimmed import Slimmed

__all__ = [
    "Accelerated",
    "Exported",
    "SlimError",
    "Slimmed",
    "accelerate",
    "apply_choice",
    "export",
    "load",
    "load_compact",
    "restore",
    "save",
    "save_compact",
    "slim",
]
