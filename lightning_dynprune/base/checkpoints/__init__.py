"""Checkpoints from files that are not trusted: checked first, then read by torch's restricted reader.

May import the other files of base.
"""

from lightning_dynprune.base.checkpoints.checkpoint_file import read_checkpoint, validate_checkpoint

__all__ = ["read_checkpoint", "validate_checkpoint"]
