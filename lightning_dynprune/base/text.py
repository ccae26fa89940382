"""Names in messages: lists cut to a readable length, and texts that a terminal only prints."""

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


def printable(text: str) -> str:
    r"""Return a text with its control characters written as escapes, so that a terminal does not act on them.

    Example:
        >>> printable("a\x1b[31mb\u202e")
        'a\\x1b[31mb\\u202e'
    """
    return "".join(char if char.isprintable() or char == "\n" else ascii(char)[1:-1] for char in text)
