"""Find attention heads, which can be removed as units."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from lightning_dynprune.base import is_whole
from lightning_dynprune.coupling.group import Axis, CouplingError, Group
from lightning_dynprune.coupling.layers import column_dim, row_dim
from lightning_dynprune.coupling.projections import (
    GROUP_SIZE_ATTRIBUTES,
    HEAD_COUNT_ATTRIBUTES,
    KEY_COUNT_ATTRIBUTES,
    WIDTH_ATTRIBUTES,
    Projections,
    find_projections,
    per_head_tables,
)

# Attributes of attention modules that removing heads changes.
HEAD_ATTRIBUTES = (*HEAD_COUNT_ATTRIBUTES, *KEY_COUNT_ATTRIBUTES, *GROUP_SIZE_ATTRIBUTES, *WIDTH_ATTRIBUTES)
GROUPED_QUERY = ("groups", "queries")


def attention_heads(
    model: nn.Module,
    heads: Mapping[str, int] | None = None,
    left_out: dict[str, str] | None = None,
    grouped_query: str = "groups",
) -> list[Group]:
    """Return the attention heads of a model that can be removed, as groups whose units are the heads of a module.

    An attention module is ``nn.MultiheadAttention``, or one with the projections as linear layers: one that computes
    queries, keys and values one after the other, or three named after them; and one that reads the concatenated heads,
    in the module or beside it (BERT). Its number of heads is an attribute ``num_heads``, ``n_head``, ``n_heads``,
    ``heads`` or ``num_attention_heads``, or follows from an attribute with the size of a head (``head_dim``).

    In grouped-query attention several query heads share a head of keys and values. Either such a whole group is a unit,
    or the query heads at one place of every group are; with a single head of keys and values, always the latter.
    Where layers of one kind use one table of position biases, as in T5, their heads are removed together.

    Args:
        model: the network.
        heads: glob on module names -> number of query heads, for modules without such an attribute; 0 leaves them out.
            The first glob that matches wins.
        left_out: if given, modules that are ambiguous are added here, name -> reason, instead of raising.
        grouped_query: the unit of grouped-query attention: "groups" or "queries".

    Raises:
        CouplingError: the roles of the linear layers are ambiguous, the number of heads does not divide the width, or a
            glob matches nothing.

    Source: Ainslie et al., "GQA: Training Generalized Multi-Query Transformer Models" (2023).

    Example:
        >>> net = nn.TransformerEncoderLayer(8, nhead=2, dim_feedforward=16)
        >>> group, = attention_heads(net)
        >>> group.name, group.units, group.width_attributes
        ('self_attn.in_proj_weight', 2, ('self_attn.num_heads',))
    """
    modules = dict(model.named_modules())
    given = _given(model, modules, heads or {})
    found: list[Group] = []
    for name, module in modules.items():
        if given.get(name) == 0:
            continue
        try:
            if isinstance(module, nn.MultiheadAttention):
                found.append(_multihead(name, module))
            elif projections := find_projections(model, name, module, given.get(name)):
                found.append(_group(model, name, projections, grouped_query))
        except CouplingError as error:
            if left_out is None:
                raise
            left_out[name] = str(error)
    return _joined(model, found)


def attention_projections(model: nn.Module) -> dict[str, Projections]:
    """Return the projections of every attention module of a model by its name; ambiguous modules are left out.

    Args:
        model: the network.
    """
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            heads, width = module.num_heads, module.out_proj.weight.shape[1]
            outputs = _join(name, "out_proj")
            found[name] = Projections((_join(name, "in_proj"),), outputs, heads, heads, width // heads)
            continue
        with contextlib.suppress(CouplingError):
            if projections := find_projections(model, name, module, None):
                found[name] = projections
    return found


def _given(model: nn.Module, modules: Iterable[str], heads: Mapping[str, int]) -> dict[str, int]:
    """Return the numbers of heads that the user gave, by module."""
    given: dict[str, int] = {}
    for glob, count in heads.items():
        matched = [name for name in modules if isinstance(glob, str) and fnmatchcase(name, glob)]
        if not matched:
            raise CouplingError(f"heads: {glob!r} matches no module of {type(model).__name__}")
        if not is_whole(count, low=1) and count != 0:
            raise CouplingError(f"heads: {glob!r}: {count!r} is not a number of heads; give an integer of at least 0")
        given = {**dict.fromkeys(matched, count), **given}
    return given


def _group(model: nn.Module, name: str, found: Projections, grouped_query: str) -> Group:
    """Return the group of the heads of a module with these projections."""
    size, shared = found.size, found.heads // found.key_heads
    by_queries = shared > 1 and (grouped_query == "queries" or found.key_heads == 1)
    numbers = torch.arange(found.heads).view(found.key_heads, shared)  # of the query heads, a row for each key head
    queries = _channels(numbers.T if by_queries else numbers, size)
    keys = _channels(torch.arange(found.key_heads).view(-1, 1), size)
    width, key_width = found.heads * size, found.key_heads * size
    if len(found.sources) == 1:
        fused = queries if by_queries else torch.cat([queries, keys + width, keys + width + key_width], dim=1)
        indices = {found.sources[0]: fused}
    elif by_queries:
        indices = {found.sources[0]: queries}
    else:
        indices = dict(zip(found.sources, (queries, keys, keys), strict=True))
        if shared > 1:  # the units are the heads of the keys, which name the group
            indices = {local: indices[local] for local in (found.sources[1], found.sources[0], found.sources[2])}
    axes = [axis for local, index in indices.items() for axis in _rows(model, local, index)]
    module = model.get_submodule(name)
    heads = queries[:, ::size] // size
    for table, dim in per_head_tables(name, module, found.heads):
        axes.append(Axis(table, dim, False, heads, is_table=True))
    axes.append(Axis(f"{found.output}.weight", column_dim(model.get_submodule(found.output)), False, queries))
    proportional = [(HEAD_COUNT_ATTRIBUTES, found.heads), (WIDTH_ATTRIBUTES, width)]
    if by_queries:
        proportional.append((GROUP_SIZE_ATTRIBUTES, shared))
    else:
        proportional += [(KEY_COUNT_ATTRIBUTES, found.key_heads), (WIDTH_ATTRIBUTES, key_width)]
    attributes = {
        _join(name, local): None
        for names, value in proportional
        for local in names
        if is_whole(getattr(module, local, None), low=1) and getattr(module, local) == value
    }
    return Group(axes[0].name, len(queries), tuple(axes), tuple(attributes), by_queries, (name,))


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
    return Group(axes[0].name, count, tuple(axes), (_join(name, "num_heads"),), modules=(name,))


def _joined(model: nn.Module, groups: list[Group]) -> list[Group]:
    """Return the groups, with those as one whose modules use the table of position biases of one of them.

    That is so where of several modules in the same place of repeated blocks only some have a table; then the other
    modules of that type hand on a bias likewise (the cross-attention of T5).
    """
    tables = {group: any(axis.is_table for axis in group.axes) for group in groups}
    places: dict[tuple[type[nn.Module], str], list[Group]] = {}
    for group in groups:
        (name,) = group.modules
        places.setdefault((type(model.get_submodule(name)), re.sub(r"\d+", "*", name)), []).append(group)
    sharing = {kind for (kind, _), those in places.items() if len({tables[group] for group in those}) > 1}
    joined: dict[Group, Group | None] = {}
    for (kind, _), those in places.items():
        if kind in sharing and len({group.units for group in those}) == 1:
            joined[those[0]] = dataclasses.replace(
                those[0],
                axes=tuple(axis for group in those for axis in group.axes),
                width_attributes=tuple(name for group in those for name in group.width_attributes),
                modules=tuple(name for group in those for name in group.modules),
            )
            joined.update(dict.fromkeys(those[1:]))
    return [group for group in (joined.get(group, group) for group in groups) if group is not None]


def _channels(numbers: Tensor, size: int) -> Tensor:
    """Return the channels of heads, given their numbers ``(units, heads)``: int64 ``(units, heads * size)``."""
    return (numbers.unsqueeze(-1) * size + torch.arange(size)).flatten(1)


def _rows(model: nn.Module, name: str, index: Tensor) -> Iterator[Axis]:
    """Yield the axes of a projection's weight and bias."""
    layer = model.get_submodule(name)
    yield Axis(f"{name}.weight", row_dim(layer), True, index)
    bias: Any = getattr(layer, "bias", None)
    if bias is not None:
        yield Axis(f"{name}.bias", 0, True, index)


def _join(prefix: str, local: str) -> str:
    return f"{prefix}.{local}" if prefix else local
