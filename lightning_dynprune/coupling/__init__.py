"""Which channels and heads of a model can only be removed together."""

from lightning_dynprune.coupling.channels import coupled_groups
from lightning_dynprune.coupling.group import Axis, Coupling, CouplingError, Group
from lightning_dynprune.coupling.heads import COUNTS, attention_heads
from lightning_dynprune.coupling.isolation import call, quiet, tensors
from lightning_dynprune.coupling.layers import CARRIED, carries, channel_dim, makes, outputs_of, owns, row_dim
from lightning_dynprune.coupling.narrow import Narrowing
from lightning_dynprune.coupling.verify import distance, refused

__all__ = [
    "CARRIED",
    "COUNTS",
    "Axis",
    "Coupling",
    "CouplingError",
    "Group",
    "Narrowing",
    "attention_heads",
    "call",
    "carries",
    "channel_dim",
    "coupled_groups",
    "distance",
    "makes",
    "outputs_of",
    "owns",
    "quiet",
    "refused",
    "row_dim",
    "tensors",
]
