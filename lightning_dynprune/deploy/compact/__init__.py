"""Read and write sparse state dicts as one file of bit masks and nonzero values.

May import masks and base.
"""

from lightning_dynprune.deploy.compact.compact_file import load_compact, save_compact, write_dense
from lightning_dynprune.deploy.compact.contents import FORMAT
from lightning_dynprune.deploy.compact.tensor_file import open_tensors, write_tensors

__all__ = ["FORMAT", "load_compact", "open_tensors", "save_compact", "write_dense", "write_tensors"]
