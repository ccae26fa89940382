"""The package's source as syntax trees: its files, definitions, docstrings and line counts."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "lightning_dynprune"
FILES = sorted(PACKAGE.rglob("*.py"))

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
Documented = ast.Module | Definition


def name_of(path: Path) -> str:
    """Return a file's path inside the package, for test ids and messages."""
    return path.relative_to(PACKAGE).as_posix()


def tree_of(path: Path) -> ast.Module:
    """Return the syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def definitions(node: ast.AST, inside: str = "") -> Iterator[tuple[str, Definition]]:
    """Yield every class and function under ``node`` with its dotted name, nested ones included."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Definition):
            name = f"{inside}{child.name}"
            yield name, child
            yield from definitions(child, f"{name}.")
        else:
            yield from definitions(child, inside)


def docstring_lines(node: ast.AST) -> set[int]:
    """Return the line numbers of all docstrings in ``node``, its own and those of what it contains."""
    lines: set[int] = set()
    for found in ast.walk(node):
        if isinstance(found, Documented) and ast.get_docstring(found, clean=False) is not None:
            lines.update(range(found.body[0].lineno, (found.body[0].end_lineno or 0) + 1))
    return lines


def line_count(node: Definition) -> int:
    """Return how long a definition is: its lines from ``def`` or ``class`` to its end, except those of docstrings.

    Blank lines and comments count; decorators, which stand above the ``def``, do not.
    """
    own = range(node.lineno, (node.end_lineno or node.lineno) + 1)
    return len(set(own) - docstring_lines(node))


def first_sentence(docstring: str) -> str:
    """Return a docstring's first sentence on one line."""
    paragraph = " ".join(docstring.strip().split("\n\n")[0].split())
    return re.split(r"(?<=[.?!])\s+(?=[A-Z`:])", paragraph)[0]


def first_sentences(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the name and the first sentence of everything documented in a file, the file itself first."""
    tree = tree_of(path)
    for name, node in [("", tree), *definitions(tree)]:
        docstring = ast.get_docstring(node)
        if docstring is not None:
            yield f"{name_of(path)}{':' if name else ''}{name}", first_sentence(docstring)
