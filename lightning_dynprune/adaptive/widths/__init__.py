"""Widths: narrow copies of a network that easy inputs take.

May import adaptive.cascade, the files of adaptive/ that all methods share, and the rooms below adaptive.
"""

from lightning_dynprune.adaptive.widths.prefix_width import PrefixWidth
from lightning_dynprune.adaptive.widths.width_module import PrefixWidths

__all__ = ["PrefixWidth", "PrefixWidths"]
