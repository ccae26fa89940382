"""The check that all processes were given the same settings."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from types import FunctionType
from typing import Any

import torch

from lightning_dynprune.distributed.ranks import Ranks


def check_same_settings(ranks: Ranks, settings: Mapping[str, Any]) -> None:
    """Raise in all processes if a setting differs between them; one message of 8 bytes a setting.

    Args:
        ranks: the processes.
        settings: of this process, by name; the names and their order are the same everywhere.

    Raises:
        ValueError: naming the setting, the ranks and their values.
    """
    if ranks.size == 1:
        return
    texts = [_fields(value) for value in settings.values()]
    hashes = torch.stack(ranks.gather(torch.tensor([_hash(json.dumps(text)) for text in texts])))
    for position, name in enumerate(settings):
        differing = (hashes[:, position] != hashes[0, position]).nonzero()
        if not len(differing):
            continue
        rank = int(differing[0])
        found = [json.loads(text) for text in ranks.gather_texts(json.dumps(texts[position]))]
        field, first, other = _first_difference(found[0], found[rank])
        raise ValueError(
            f"{name}{field and '.'}{field} is {first} on rank 0 and {other} on rank {rank}; give all processes the "
            "same settings, which must not depend on the rank"
        )


def _first_difference(one: Mapping[str, str], other: Mapping[str, str]) -> tuple[str, str, str]:
    """Return the first field that differs, and its two values; the type of a part has no name."""
    field = next(field for field in one if one[field] != other.get(field))
    return field, one[field], other.get(field, "not a setting")


def _fields(value: Any) -> dict[str, str]:
    """Return a setting as texts: a part by its type and its fields, any other value as one text without a name."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: _text(getattr(value, field.name)) for field in dataclasses.fields(value) if field.repr}
        return {"": type(value).__qualname__, **fields}
    return {"": _text(value)}


def _text(value: Any) -> str:
    """Return a value as text that does not depend on the process, as addresses of memory do."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_text(key)}: {_text(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, (set, frozenset)):
        return "{" + ", ".join(sorted(map(_text, value))) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_text, value)) + "]"
    if isinstance(value, (type, FunctionType)):
        return value.__qualname__
    if dataclasses.is_dataclass(value):
        fields = _fields(value)
        return f"{fields.pop('')}({', '.join(f'{name}={text}' for name, text in fields.items())})"
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)
