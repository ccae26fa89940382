"""``nn.MultiheadAttention`` with fewer heads than its width holds."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_dynprune.coupling.compat import WithoutFastPath


class SlimMultiheadAttention(WithoutFastPath):
    r"""``nn.MultiheadAttention`` with fewer heads of the size that they had.

    Torch's takes the size of a head from its width, so that fewer heads would be larger ones. Slimming gives such a
    module this class, in place; names, tensors, arguments and results stay those of ``nn.MultiheadAttention``:

    .. math:: \sum_h \operatorname{softmax}\left(Q_h K_h^T / \sqrt{d} + M\right) V_h W_h + b

    over the heads that are left, with d the size of a head before.

    Attributes:
        num_heads: heads that are left.
        head_dim: size of a head.
    """

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the outputs and the attention weights, see ``nn.MultiheadAttention.forward``.

        Args:
            query: ``(L, N, E)``, ``(N, L, E)`` with ``batch_first``, or ``(L, E)``.
            key: likewise, of length S.
            value: likewise, of length S.
            key_padding_mask: ``(N, S)``; True, or a number to add.
            need_weights: whether the weights are returned.
            attn_mask: ``(L, S)`` or ``(N * heads, L, S)``, likewise.
            average_attn_weights: return the mean of the weights over the heads that are left.
            is_causal: a hint that ``attn_mask`` is causal.

        Raises:
            ValueError: ``is_causal`` is set without ``attn_mask``.
        """
        if is_causal and attn_mask is None:
            raise ValueError("is_causal=True is a hint about attn_mask; give attn_mask too")
        is_batched = query.dim() == 3
        if not is_batched:
            query, key, value = (tensor.unsqueeze(0) for tensor in (query, key, value))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        elif not self.batch_first:
            query, key, value = (tensor.transpose(0, 1) for tensor in (query, key, value))
        queries, keys, values = self._projected(query, key, value)
        mask = self._mask(queries, keys.shape[2], attn_mask, key_padding_mask)
        dropout = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = queries @ keys.transpose(-2, -1) * self.head_dim**-0.5
            weights = F.dropout(torch.softmax(scores if mask is None else scores + mask, dim=-1), dropout)
            attended = weights @ values
            weights = weights.mean(dim=1) if average_attn_weights else weights
        else:
            attended = F.scaled_dot_product_attention(queries, keys, values, mask, dropout)
        outputs = F.linear(attended.transpose(1, 2).flatten(2), self.out_proj.weight, self.out_proj.bias)
        if not is_batched:
            return outputs.squeeze(0), None if weights is None else weights.squeeze(0)
        return outputs if self.batch_first else outputs.transpose(0, 1), weights

    def _projected(self, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values ``(N, heads, length, head size)``, with the biases appended to the length."""
        packed = cast("Tensor | None", self.in_proj_weight)
        if packed is not None:
            matrices = packed.chunk(3)
        else:
            matrices = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        biases = (None, None, None) if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        projected = [F.linear(*parts) for parts in zip(inputs, matrices, biases, strict=True)]
        if self.bias_k is not None and self.bias_v is not None:
            for place, bias in ((1, self.bias_k), (2, self.bias_v)):
                projected[place] = torch.cat([projected[place], bias.expand(len(inputs[0]), -1, -1)], dim=1)
        queries, keys, values = (
            tensor.view(*tensor.shape[:2], self.num_heads, self.head_dim).transpose(1, 2) for tensor in projected
        )
        if self.add_zero_attn:
            keys, values = F.pad(keys, (0, 0, 0, 1)), F.pad(values, (0, 0, 0, 1))
        return queries, keys, values

    def _mask(
        self, queries: Tensor, length: int, attn_mask: Tensor | None, key_padding_mask: Tensor | None
    ) -> Tensor | None:
        """Return both masks as one that is added to the scores, ``(N or 1, heads or 1, L or 1, length)``."""
        masks = []
        if attn_mask is not None:
            whole = attn_mask if attn_mask.dim() == 3 else attn_mask.unsqueeze(0)
            rows = len(queries) if len(whole) > 1 else 1
            masks.append(whole.reshape(rows, -1, *whole.shape[1:]))
        if key_padding_mask is not None:
            masks.append(key_padding_mask[:, None, None])
        total: Tensor | None = None
        for mask in masks:
            if mask.dtype == torch.bool:
                added = torch.zeros_like(mask, dtype=queries.dtype).masked_fill_(mask, -torch.inf)
            else:
                added = mask.to(queries.dtype)
            # Biases of keys and the zero may always be attended to.
            added = F.pad(added, (0, length - added.shape[-1]))
            total = added if total is None else total + added
        return total
