"""The families of transformers, as the package of that name builds them from a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tests.families.family import Family

_SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": 60,
}
_POSITIONS = 32


def _tokens(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(3, 60, shape, generator=torch.Generator().manual_seed(seed))


def _noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _own_loss(outputs: Any, batch: Mapping[str, Tensor]) -> Tensor:
    loss: Tensor = outputs.loss
    return loss


def _made(model: str, config: str, **settings: Any) -> nn.Module:
    import transformers

    torch.manual_seed(0)
    network: nn.Module = getattr(transformers, model)(getattr(transformers, config)(**settings))
    return network


def _family(name: str, model: str, config: str, sizes: Mapping[str, Any], heads: float = 0.2, **others: Any) -> Family:
    return Family(
        name=name,
        build=lambda: _made(model, config, **sizes),
        loss=_own_loss,
        sparsity={"channel": 0.2, "head": heads},
        **others,
    )


_GENERATE = {"do_sample": False, "max_new_tokens": 4, "min_new_tokens": 4}
_TEXT = {"input_ids": _tokens(4, 7), "labels": _tokens(4, 7)}
_DECODER = {"num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": _POSITIONS}
_LLAMA = {**_SIZES, **_DECODER, "pad_token_id": 0}

FAMILIES = (
    _family(
        "BERT",
        "BertForSequenceClassification",
        "BertConfig",
        {**_SIZES, "max_position_embeddings": _POSITIONS},
        batch={"input_ids": _tokens(4, 7), "labels": torch.tensor([0, 1, 0, 1])},
    ),
    _family(
        "GPT-2",
        "GPT2LMHeadModel",
        "GPT2Config",
        {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 48, "vocab_size": 60, "n_positions": _POSITIONS}
        | {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
        batch=_TEXT,
        generate=_GENERATE,
    ),
    _family(
        "LLaMA (grouped-query attention)",
        "LlamaForCausalLM",
        "LlamaConfig",
        _LLAMA,
        heads=0.15,
        note="a head of keys and values goes with its query heads",
        batch=_TEXT,
        generate=_GENERATE,
    ),
    Family(
        "LLaMA, query heads alone",
        lambda: _made("LlamaForCausalLM", "LlamaConfig", **_LLAMA),
        _TEXT,
        _own_loss,
        _GENERATE,
        sparsity={"head": 0.1},
        settings={"head": {"pattern": {"name": "head", "grouped_query": "queries"}}},
        note='`pattern={"name": "head", "grouped_query": "queries"}`',
    ),
    _family(
        "Mixtral (grouped-query attention, experts)",
        "MixtralForCausalLM",
        "MixtralConfig",
        {**_LLAMA, "num_local_experts": 3},
        heads=0.05,
        settings={"channel": {"pattern": {"name": "channel", "round_to": 8}}},
        note="`round_to=8`: torch multiplies the matrices of experts only at such widths",
        batch=_TEXT,
        generate=_GENERATE,
    ),
    _family(
        "T5",
        "T5ForConditionalGeneration",
        "T5Config",
        {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "vocab_size": 60}
        | {"decoder_start_token_id": 0, "pad_token_id": 0},
        batch={"input_ids": _tokens(4, 7), "labels": _tokens(4, 5, seed=1)},
        generate=_GENERATE,
        note="layers that share a table of position biases lose the same heads",
    ),
    _family(
        "ViT",
        "ViTForImageClassification",
        "ViTConfig",
        {**_SIZES, "image_size": 16, "patch_size": 8},
        batch={"pixel_values": _noise(4, 3, 16, 16), "labels": torch.tensor([0, 1, 0, 1])},
    ),
    _family(
        "Whisper",
        "WhisperForConditionalGeneration",
        "WhisperConfig",
        {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "vocab_size": 60, "num_mel_bins": 8}
        | {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48}
        | {"max_source_positions": 12, "max_target_positions": 16, "suppress_tokens": None}
        | {"begin_suppress_tokens": None, "decoder_start_token_id": 1, "bos_token_id": 1, "eos_token_id": 2}
        | {"pad_token_id": 0},
        batch={"input_features": _noise(4, 8, 24), "labels": _tokens(4, 5)},
        generate=_GENERATE,
    ),
)
