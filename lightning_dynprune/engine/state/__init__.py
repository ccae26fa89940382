"""The saved state of a pruner: its format and its components, each of which checks before it loads.

May import what engine may.
"""

from lightning_dynprune.engine.state.run_state import load_run, save_run
from lightning_dynprune.engine.state.state_format import VERSION, read_state, sealed, state_for_new_fit

__all__ = ["VERSION", "load_run", "read_state", "save_run", "sealed", "state_for_new_fit"]
