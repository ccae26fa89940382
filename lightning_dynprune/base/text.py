"""Names in messages: lists cut to a readable length, and texts that a terminal only prints."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


def did_you_mean(given: str, known: Sequence[str]) -> str:
    """Return a clause with the known name that is most similar to the given one; empty if none is.

    Upper and lower case are not distinguished, and the beginning of a single name stands for it.

    Args:
        given: the name given.
        known: the names that would be accepted.

    Example:
        >>> did_you_mean("Rigll", ["rigl", "set"]), did_you_mean("acc", ["accuracy", "speed"])
        ('; did you mean rigl?', '; did you mean accuracy?')
        >>> did_you_mean("x", ["rigl", "set"])
        ''
    """
    lowered = {name.lower(): name for name in known}
    found = difflib.get_close_matches(given.lower(), lowered, n=1)
    begun = [name for name in lowered if len(given) > 1 and name.startswith(given.lower())]
    if not found and len(begun) == 1:
        found = begun
    return f"; did you mean {lowered[found[0]]}?" if found else ""


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
