"""The parts of ``nn.MultiheadAttention`` that this room uses without a documented interface.

If torch's fused attention is entered by other attributes, slim attention in an encoder layer raises or computes
something else in eval mode without gradients.
"""

from __future__ import annotations

from torch import nn


class WithoutFastPath(nn.MultiheadAttention):
    """Multi-head attention that torch's fused kernels, which expect heads that fill the width, leave alone."""

    @property
    def _qkv_same_embed_dim(self) -> bool:
        """False: encoder layers then call the module's own forward."""
        return False

    @_qkv_same_embed_dim.setter
    def _qkv_same_embed_dim(self, value: bool) -> None:
        """Do nothing: torch's modules set it."""
