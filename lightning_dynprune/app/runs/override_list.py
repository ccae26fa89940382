"""The bounds of a list of overrides, which Hydra parses at about a millisecond a value."""

from __future__ import annotations

import re
from typing import Any

_MOST, _MOST_VALUES, _LONGEST = 1_000, 4_000, 2**16  # overrides, values in them, characters


def validate_overrides(overrides: Any) -> list[str]:
    """Return a list of overrides if it is one and not too long.

    Args:
        overrides: of a command or from a file.

    Raises:
        ValueError: it is no list of texts, or it has more overrides, values or characters than a command needs.

    Example:
        >>> validate_overrides(["seed=1"])
        ['seed=1']
    """
    if not isinstance(overrides, list) or not all(isinstance(text, str) for text in overrides):
        raise ValueError("overrides is missing or is not a list of texts")
    values = sum(len(re.findall(r"[,:=\[{(]", text)) for text in overrides)
    length = sum(map(len, overrides))
    if len(overrides) > _MOST or values > _MOST_VALUES or length > _LONGEST:
        raise ValueError(
            f"there are {len(overrides)} overrides of {length} characters with {values} values; accepted are {_MOST}, "
            f"{_LONGEST} and {_MOST_VALUES}. Put settings into a folder for --config-dir"
        )
    return overrides
