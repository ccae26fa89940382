"""The attachment of a pruner to a model and its optimizers: who owns a target, and whether it was replaced meanwhile.

May import what engine may.
"""

from lightning_dynprune.engine.attachment.model_check import ModelCheck
from lightning_dynprune.engine.attachment.optimizer_check import OptimizerCheck
from lightning_dynprune.engine.attachment.ownership import add_owner, check_not_owned, remove_owner

__all__ = ["ModelCheck", "OptimizerCheck", "add_owner", "check_not_owned", "remove_owner"]
