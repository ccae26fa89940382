"""Find attention heads, which can be removed as units."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from lightning_dynprune.base import is_whole
from lightning_dynprune.coupling.group import Axis, CouplingError, Group

HEAD_COUNT_ATTRIBUTES = ("num_heads", "n_head", "n_heads", "heads", "num_attention_heads")
_SPLIT = re.compile(r"(?:to_|w_?|proj_|lin_|attn_)?([qkv])(?:uery|ueries|ey|alue)?s?(?:_?(?:proj\w*|lin\w*|w))?")


def attention_heads(
    model: nn.Module, heads: Mapping[str, int] | None = None, left_out: dict[str, str] | None = None
) -> list[Group]:
    """Return one group per attention module of a model; its units are the heads.

    An attention module is ``nn.MultiheadAttention``, or one with an attribute ``num_heads``, ``n_head``, ``n_heads``,
    ``heads`` or ``num_attention_heads`` and the projections as Linear layers: one that computes queries, keys and
    values one after the other, or three named after them; and one that reads the concatenated heads.

    Args:
        model: the network.
        heads: glob on module names -> number of heads, for modules without such an attribute; 0 leaves them out. The
            first glob that matches wins.
        left_out: if given, modules that are ambiguous are added here, name -> reason, instead of raising.

    Raises:
        CouplingError: the roles of the Linear layers are ambiguous, the number of heads does not divide the width, or a
            glob matches nothing.

    Example:
        >>> net = nn.TransformerEncoderLayer(8, nhead=2, dim_feedforward=16)
        >>> group, = attention_heads(net)
        >>> group.name, group.units, group.count_attribute
        ('self_attn.in_proj_weight', 2, 'self_attn.num_heads')
    """
    modules = dict(model.named_modules())
    given: dict[str, int] = {}
    for glob, count in (heads or {}).items():
        matched = [name for name in modules if isinstance(glob, str) and fnmatchcase(name, glob)]
        if not matched:
            raise CouplingError(f"heads: {glob!r} matches no module of {type(model).__name__}")
        if not _is_count(count) and count != 0:
            raise CouplingError(f"heads: {glob!r}: {count!r} is not a number of heads; give an integer of at least 0")
        given = {**dict.fromkeys(matched, count), **given}
    found = []
    for name, module in modules.items():
        if given.get(name) == 0:
            continue
        try:
            multihead = isinstance(module, nn.MultiheadAttention)
            group = _multihead(name, module) if multihead else _by_linears(name, module, given)
        except CouplingError as error:
            if left_out is None:
                raise
            left_out[name] = str(error)
            continue
        if group is not None:
            found.append(group)
    return found


def _by_linears(name: str, module: nn.Module, given: Mapping[str, int]) -> Group | None:
    """Return the group of an attention module built of Linear layers; None if the module is not one."""
    attribute = next((a for a in HEAD_COUNT_ATTRIBUTES if _is_count(getattr(module, a, None))), "")
    count = given.get(name) or (getattr(module, attribute) if attribute else 0)
    linears = {local: child for local, child in module.named_children() if isinstance(child, nn.Linear)}
    if not count or not linears:
        return None
    split = _split_projections(linears)
    sources = [split] if split else [[local] for local, linear in linears.items() if linear.out_features % 3 == 0]
    pairs = []
    for source in sources:
        width = linears[source[0]].out_features // (1 if split else 3)
        inputs = linears[source[0]].in_features
        for local, linear in linears.items():
            if local not in source and (linear.in_features, linear.out_features) == (width, inputs):
                pairs.append((source, local))
    pairs = _by_name(pairs)
    if not pairs and (split or name in given):
        raise _error(name, module, "has no Linear that maps the concatenated heads back to the width of their input")
    if len(pairs) > 1:
        shown = "; ".join(f"{'+'.join(source)} -> {output}" for source, output in pairs)
        raise _error(name, module, f"can be read in more than one way: {shown}")
    if not pairs:
        return None
    source, output = pairs[0]
    width = linears[output].in_features
    if width % count:
        raise _error(name, module, f"has {count} heads, which do not divide its width {width}")
    index = torch.arange(width).view(count, -1)
    if not split:
        index = torch.cat([index, index + width, index + 2 * width], dim=1)
    axes = [axis for local in source for axis in _rows(_join(name, local), linears[local].bias is not None, index)]
    axes.append(Axis(_join(name, f"{output}.weight"), 1, False, torch.arange(width).view(count, -1)))
    return Group(axes[0].name, count, tuple(axes), _join(name, attribute) if attribute else "")


def _multihead(name: str, module: nn.MultiheadAttention) -> Group:
    width, count = module.embed_dim, module.num_heads
    per_head = torch.arange(width).view(count, -1)
    fused = torch.cat([per_head, per_head + width, per_head + 2 * width], dim=1)
    if getattr(module, "in_proj_weight", None) is not None:
        axes = [Axis(_join(name, "in_proj_weight"), 0, True, fused)]
    else:
        axes = [Axis(_join(name, f"{part}_proj_weight"), 0, True, per_head) for part in "qkv"]
    if getattr(module, "in_proj_bias", None) is not None:
        axes.append(Axis(_join(name, "in_proj_bias"), 0, True, fused))
    if module.bias_k is not None:
        axes += [Axis(_join(name, local), 2, True, per_head) for local in ("bias_k", "bias_v")]
    axes.append(Axis(_join(name, "out_proj.weight"), 1, False, per_head))
    return Group(axes[0].name, count, tuple(axes), _join(name, "num_heads"))


def _split_projections(linears: Mapping[str, nn.Linear]) -> list[str]:
    """Return the names of the Linears for queries, keys and values; empty unless there is one of each, of one width."""
    parts: dict[str, list[str]] = {"q": [], "k": [], "v": []}
    for local in linears:
        if match := _SPLIT.fullmatch(local.lower()):
            parts[match[1]].append(local)
    if any(len(names) != 1 for names in parts.values()):
        return []
    split = [names[0] for names in parts.values()]
    return split if len({linears[local].out_features for local in split}) == 1 else []


def _by_name(pairs: list[tuple[list[str], str]]) -> list[tuple[list[str], str]]:
    """Return the pairs with the usual names of projections, if the shapes allow more than one pair."""
    if len(pairs) > 1:
        pairs = [pair for pair in pairs if re.search("qkv|attn|in_proj", "+".join(pair[0]).lower())] or pairs
    if len(pairs) > 1:
        pairs = [pair for pair in pairs if re.search("out|proj|^w?o$", pair[1].lower())] or pairs
    return pairs


def _rows(prefix: str, has_bias: bool, index: Tensor) -> list[Axis]:
    return [Axis(f"{prefix}.{local}", 0, True, index) for local in (("weight", "bias") if has_bias else ("weight",))]


def _is_count(value: Any) -> bool:
    return is_whole(value, low=1)


def _join(prefix: str, local: str) -> str:
    return f"{prefix}.{local}" if prefix else local


def _error(name: str, module: nn.Module, what: str) -> CouplingError:
    return CouplingError(
        f"heads: module {name!r} ({type(module).__name__}) {what}; expected one Linear (width -> 3 x width: queries, "
        "keys, values) or three named q*, k*, v*, and one Linear back; pass "
        f"heads={{{name!r}: 0}} to leave it out, or rename its layers (qkv, out_proj)"
    )
