"""Figures as a reader wants them."""

from __future__ import annotations


def shown(text: str) -> str:
    r"""Return a text as it is safe to print: what a terminal would act on is written out.

    Example:
        >>> shown("a\x1b[31mb\u202e")
        'a\\x1b[31mb\\u202e'
    """
    return "".join(letter if letter.isprintable() or letter == "\n" else ascii(letter)[1:-1] for letter in text)


def percent(share: float | None, digits: int = 2) -> str:
    """Return a share in percent; a dash where there is none.

    Example:
        >>> percent(0.98765), percent(None)
        ('98.77 %', '-')
    """
    return "-" if share is None else f"{100 * share:.{digits}f} %"


def file_size(count: int | None) -> str:
    """Return a number of bytes in the largest fitting unit.

    Example:
        >>> file_size(999), file_size(266_610)
        ('999 B', '266.6 kB')
    """
    if count is None:
        return "-"
    if count < 1000:
        return f"{count} B"
    power = next((p for p in (1, 2) if count < 999.95 * 1000**p), 3)
    return f"{count / 1000**power:.1f} {('kB', 'MB', 'GB')[power - 1]}"


def duration(seconds: float) -> str:
    """Return seconds, as minutes too where that reads better.

    Example:
        >>> duration(3.21), duration(125.4)
        ('3.2 s', '2 min 05 s')
    """
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"
