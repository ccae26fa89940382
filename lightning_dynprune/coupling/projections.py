"""Find the layers of an attention module: its projections, their numbers of heads, and tables with an entry a head."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import nn

from lightning_dynprune.base import is_whole
from lightning_dynprune.coupling.group import CouplingError
from lightning_dynprune.coupling.layers import is_matrix, num_input_channels, num_output_channels

HEAD_COUNT_ATTRIBUTES = ("num_heads", "n_head", "n_heads", "heads", "num_attention_heads")
KEY_COUNT_ATTRIBUTES = ("num_key_value_heads", "num_kv_heads", "n_kv_heads", "n_kv_head")
GROUP_SIZE_ATTRIBUTES = ("num_key_value_groups", "num_queries_per_kv", "n_rep")
_SIZE_ATTRIBUTES = ("head_dim", "head_size", "attention_head_size", "key_value_proj_dim", "dim_head", "d_head", "d_kv")
WIDTH_ATTRIBUTES = ("all_head_size", "inner_dim", "split_size", "inner_kv_dim")

_SPLIT = re.compile(r"(?:to_|w_?|proj_|lin_|attn_)?([qkv])(?:uery|ueries|ey|alue)?s?(?:_?(?:proj\w*|lin\w*|w))?")
_OUTPUT = re.compile(r"out|proj|dense|^w?o$")
_POSITION = re.compile("bias|position")


@dataclass(frozen=True)
class Projections:
    """The projections of an attention module, and its heads.

    Attributes:
        sources: qualified names of the layers that compute queries, keys and values: three, or one that computes them
            one after the other.
        output: qualified name of the layer that reads the concatenated heads.
        heads: number of query heads.
        key_heads: number of key heads, and of value heads; it divides ``heads``.
        size: channels of a head.
    """

    sources: tuple[str, ...]
    output: str
    heads: int
    key_heads: int
    size: int


def find_projections(model: nn.Module, name: str, module: nn.Module, given: int | None) -> Projections | None:
    """Return the projections of a module; None if it is no attention module.

    Args:
        model: the network.
        name: qualified name of the module.
        module: the module.
        given: its number of query heads, if the user gave it.

    Raises:
        CouplingError: the roles of the layers are ambiguous, or the numbers of heads do not divide their widths.
    """
    layers = {local: child for local, child in module.named_children() if is_matrix(child)}
    if not layers:
        return None
    size = _first(module, _SIZE_ATTRIBUTES)
    heads = given or _first(module, HEAD_COUNT_ATTRIBUTES)
    if not (heads or size):
        return None
    split = _split_projections(layers)
    keys = num_output_channels(layers[split[1]]) if split else 0
    # Each way to read the module: the layers of queries, keys and values, and the width of the queries.
    ways = [(tuple(split), num_output_channels(layers[split[0]]))] if split else _fused(module, layers, heads, size)
    pairs = []
    for sources, width in ways:
        inputs = num_input_channels(layers[sources[0]])
        for local, layer in layers.items():
            if local not in sources and (num_input_channels(layer), num_output_channels(layer)) == (width, inputs):
                pairs.append((sources, width, _join(name, local)))
        if split and not pairs:
            pairs = [(sources, width, output) for output in _outputs_beside(model, name, width, inputs)]
    pairs = _by_name(pairs)
    if not pairs:
        if given or (split and heads):
            raise _error(name, module, "has no Linear that maps the concatenated heads back to the width of its input")
        return None
    if len(pairs) > 1:
        shown = "; ".join(f"{'+'.join(sources)} -> {output.removeprefix(name + '.')}" for sources, _, output in pairs)
        raise _error(name, module, f"can be read in more than one way: {shown}")
    ((sources, width, output),) = pairs
    if width % (heads or size):
        what = f"{heads} heads, which do not divide" if heads else f"heads of {size} channels, which do not divide"
        raise _error(name, module, f"has {what} its width {width}")
    heads = heads or width // size
    size = width // heads
    keys = keys or (_rows(layers[sources[0]]) - width) // 2
    if keys % size or heads % (keys // size):
        raise _error(name, module, f"has {heads} query heads of {size} channels, and keys of {keys}")
    return Projections(tuple(_join(name, local) for local in sources), output, heads, keys // size, size)


def per_head_tables(name: str, module: nn.Module, heads: int) -> Iterator[tuple[str, int]]:
    """Yield the tables that a module adds to its attention scores and that have one entry a head: (name, dimension).

    These are embeddings, as T5's relative position bias, and parameters of the module itself, as Swin's.
    """
    for local, child in module.named_children():
        if isinstance(child, nn.Embedding) and child.weight.shape[1] == heads:
            yield f"{_join(name, local)}.weight", 1
    for local, parameter in module.named_parameters(recurse=False):
        dims = [dim for dim, length in enumerate(parameter.shape) if length == heads]
        if _POSITION.search(local) and parameter.dim() > 1 and len(dims) == 1:
            yield _join(name, local), dims[0]


def _fused(
    module: nn.Module, layers: Mapping[str, nn.Module], heads: int, size: int
) -> list[tuple[tuple[str, ...], int]]:
    """Return the layers that may compute queries, keys and values one after the other, with the queries' width."""
    key_heads = _first(module, KEY_COUNT_ATTRIBUTES)
    if heads and size and key_heads and key_heads != heads:
        whole = (heads + 2 * key_heads) * size
        return [((local,), heads * size) for local, layer in layers.items() if _rows(layer) == whole]
    return [((local,), _rows(layer) // 3) for local, layer in layers.items() if heads and _rows(layer) % 3 == 0]


def _split_projections(layers: Mapping[str, nn.Module]) -> list[str]:
    """Return the names of the layers for queries, keys and values; empty unless there is one of each.

    Keys and values have one width, which divides that of the queries.
    """
    parts: dict[str, list[str]] = {"q": [], "k": [], "v": []}
    for local in layers:
        if match := _SPLIT.fullmatch(local.lower()):
            parts[match[1]].append(local)
    if any(len(names) != 1 for names in parts.values()):
        return []
    split = [names[0] for names in parts.values()]
    queries, keys, values = (num_output_channels(layers[local]) for local in split)
    return split if keys == values and queries % keys == 0 else []


def _outputs_beside(model: nn.Module, name: str, width: int, inputs: int) -> list[str]:
    """Return the layers outside a module that may read its heads, as BERT's ``attention.output.dense``."""
    parent = name.rpartition(".")[0]
    return [
        _join(parent, local)
        for local, layer in (model.get_submodule(parent).named_modules() if name else ())
        if is_matrix(layer)
        and not f"{_join(parent, local)}.".startswith(f"{name}.")
        and (num_input_channels(layer), num_output_channels(layer)) == (width, inputs)
        and _OUTPUT.search(local.lower())
    ]


def _by_name(pairs: list[tuple[tuple[str, ...], int, str]]) -> list[tuple[tuple[str, ...], int, str]]:
    """Return the pairs with the usual names of projections, if the shapes allow more than one pair."""
    if len(pairs) > 1:
        pairs = [pair for pair in pairs if re.search("qkv|attn|in_proj", "+".join(pair[0]).lower())] or pairs
    if len(pairs) > 1:
        pairs = [pair for pair in pairs if re.search("out|proj|^w?o$", pair[2].rpartition(".")[2].lower())] or pairs
    return pairs


def _first(module: nn.Module, attributes: tuple[str, ...]) -> int:
    """Return the first of the attributes that is a count; 0 if none is."""
    values = (getattr(module, attribute, None) for attribute in attributes)
    return next((int(value) for value in values if is_whole(value, low=1)), 0)


def _rows(layer: nn.Module) -> int:
    return num_output_channels(layer)


def _join(prefix: str, local: str) -> str:
    return f"{prefix}.{local}" if prefix else local


def _error(name: str, module: nn.Module, what: str) -> CouplingError:
    return CouplingError(
        f"heads: module {name!r} ({type(module).__name__}) {what}; expected one Linear (width -> 3 x width: queries, "
        "keys, values) or three named q*, k*, v*, and one Linear back; pass "
        f"heads={{{name!r}: 0}} to leave it out, or rename its layers (qkv, out_proj)"
    )
