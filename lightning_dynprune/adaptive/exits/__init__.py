"""Early exits: heads after layers of a network, and the forward that ends at them.

May import adaptive.cascade, the files of adaptive/ that all methods share, and the rooms below adaptive.
"""

from lightning_dynprune.adaptive.exits.early_exit import EarlyExit
from lightning_dynprune.adaptive.exits.exit_module import EarlyExits
from lightning_dynprune.adaptive.exits.exported import export_exits, read_exits
from lightning_dynprune.adaptive.exits.head_fit import exit_loss
from lightning_dynprune.adaptive.exits.heads import ExitHead

__all__ = ["EarlyExit", "EarlyExits", "ExitHead", "exit_loss", "export_exits", "read_exits"]
