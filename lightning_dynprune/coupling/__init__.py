"""Which channels and heads of a model can only be removed together."""

from lightning_dynprune.coupling.channels import coupled_groups
from lightning_dynprune.coupling.group import Axis, Coupling, CouplingError, Group
from lightning_dynprune.coupling.heads import attention_heads

__all__ = ["Axis", "Coupling", "CouplingError", "Group", "attention_heads", "coupled_groups"]
