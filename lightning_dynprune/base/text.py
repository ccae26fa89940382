"""Lists of names in messages, cut to a readable length."""

from __future__ import annotations

from collections.abc import Sequence


def name_some(names: Sequence[str], most: int = 4) -> str:
    """Return the first names separated by commas, and how many more there are.

    Args:
        names: the names.
        most: number of names to write out.

    Example:
        >>> name_some(["a", "b", "c"], most=2), name_some(["a", "b"]), name_some([])
        ('a, b and 1 more', 'a, b', 'none')
    """
    shown = ", ".join(names[:most]) or "none"
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
