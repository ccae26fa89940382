"""Channels and attention heads of a model that can only be removed together.

May import selection and the rooms below it.
"""

from lightning_dynprune.coupling.channels import coupled_groups
from lightning_dynprune.coupling.experts import EXPERT_ATTRIBUTES, expert_channels
from lightning_dynprune.coupling.group import Axis, Coupling, CouplingError, Group, SlimError
from lightning_dynprune.coupling.heads import HEAD_ATTRIBUTES, attention_heads, attention_projections
from lightning_dynprune.coupling.isolation import isolated, run_example
from lightning_dynprune.coupling.layers import (
    CHANNELWISE_TENSORS,
    channel_dim,
    column_dim,
    holds_tensors,
    is_channelwise,
    is_grouped,
    mixes_channels,
    num_output_channels,
    row_dim,
)
from lightning_dynprune.coupling.narrow import Narrowing
from lightning_dynprune.coupling.projections import Projections
from lightning_dynprune.coupling.verify import explain_heads, failing_groups, output_difference, rounding_tolerance

__all__ = [
    "CHANNELWISE_TENSORS",
    "EXPERT_ATTRIBUTES",
    "HEAD_ATTRIBUTES",
    "Axis",
    "Coupling",
    "CouplingError",
    "Group",
    "Narrowing",
    "Projections",
    "SlimError",
    "attention_heads",
    "attention_projections",
    "channel_dim",
    "column_dim",
    "coupled_groups",
    "expert_channels",
    "explain_heads",
    "failing_groups",
    "holds_tensors",
    "is_channelwise",
    "is_grouped",
    "isolated",
    "mixes_channels",
    "num_output_channels",
    "output_difference",
    "rounding_tolerance",
    "row_dim",
    "run_example",
]
