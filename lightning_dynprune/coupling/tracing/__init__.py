"""One forward pass in which every channel is followed from the layer that writes it to the layers that read it.

May import the other files of coupling except channels, and the rooms below.
"""

from lightning_dynprune.coupling.tracing.grouping import traced_groups
from lightning_dynprune.coupling.tracing.trace import Trace

__all__ = ["Trace", "traced_groups"]
