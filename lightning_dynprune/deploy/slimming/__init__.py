"""Remove pruned channels and heads from a model, and save and load the smaller model.

May import deploy.compact, deploy.compat, coupling, masks and base.
"""

from lightning_dynprune.coupling import SlimError
from lightning_dynprune.deploy.slimming.norm_statistics import batch_norms, recalibrate
from lightning_dynprune.deploy.slimming.removal import slim
from lightning_dynprune.deploy.slimming.slim_file import load, save
from lightning_dynprune.deploy.slimming.slim_file_contents import FORMAT
from lightning_dynprune.deploy.slimming.slimmed import Slimmed

__all__ = ["FORMAT", "SlimError", "Slimmed", "batch_norms", "load", "recalibrate", "save", "slim"]
