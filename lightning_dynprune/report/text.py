"""Formats of numbers, of texts from files and of tables, shared by all reports."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from lightning_dynprune.base import printable


def plain_text(text: str, style: str = "") -> Text:
    """Return a text for rich that is printed as it is: neither markup nor control characters have an effect.

    Args:
        text: the text, perhaps from a file that is not trusted.
        style: style of the whole text.
    """
    return Text(printable(text), style=style)


def titled_table(title: str, pad_edge: bool = False) -> Table:
    """Return a table without columns, its title bold at the left.

    Args:
        title: the title.
        pad_edge: whether a space stands left of the first column and right of the last.
    """
    return Table(box=SIMPLE_HEAD, title=plain_text(title), title_justify="left", title_style="bold", pad_edge=pad_edge)


def percent(share: float | None, digits: int = 2) -> str:
    """Return a share in percent, or a dash for None.

    Example:
        >>> percent(0.98765), percent(None)
        ('98.77 %', '-')
    """
    return "-" if share is None else f"{100 * share:.{digits}f} %"


def file_size(count: int | None) -> str:
    """Return a number of bytes in the largest decimal unit that fits, or a dash for None.

    Example:
        >>> file_size(999), file_size(266_610)
        ('999 bytes', '266.6 kB')
    """
    return "-" if count is None else decimal(count)


def duration(seconds: float) -> str:
    """Return a time in seconds, from 100 s on in minutes and seconds.

    Example:
        >>> duration(3.21), duration(125.4)
        ('3.2 s', '2 min 05 s')
    """
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"
