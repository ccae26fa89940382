"""The parts of torch's attention that the room uses without a documented interface do what they did."""

from __future__ import annotations

import torch
from torch import nn

from lightning_dynprune.coupling.compat import WithoutFastPath


def test_an_encoder_layer_calls_the_forward_of_attention_that_is_kept_from_the_fused_kernels():
    layer, called = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval(), []

    class Recording(WithoutFastPath):
        def forward(self, query, *others, **named):
            called.append(query)
            return query, None

    with torch.no_grad():
        layer(torch.randn(1, 3, 8))
        layer.self_attn.__class__ = Recording
        layer(torch.randn(1, 3, 8))
    assert len(called) == 1
    assert vars(layer.self_attn)["_qkv_same_embed_dim"] is True  # what the class hides
