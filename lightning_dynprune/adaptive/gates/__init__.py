"""Channel gates: each input computes the channels of a convolution that it needs.

May import adaptive.cascade, the files of adaptive/ that all methods share, and the rooms below adaptive.
"""

from lightning_dynprune.adaptive.gates.channel_gate import GateChannels
from lightning_dynprune.adaptive.gates.gate import ChannelGate
from lightning_dynprune.adaptive.gates.gate_module import ChannelGates

__all__ = ["ChannelGate", "ChannelGates", "GateChannels"]
