"""One file of a sparse state dict: bit masks and the values that are not zero.

May import what deploy may.
"""

from lightning_dynprune.deploy.compact.compact_file import load_compact, save_compact, write_dense
from lightning_dynprune.deploy.compact.contents import FORMAT
from lightning_dynprune.deploy.compact.tensor_file import write_tensors

__all__ = ["FORMAT", "load_compact", "save_compact", "write_dense", "write_tensors"]
