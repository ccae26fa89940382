"""A reader meets small files, classes and functions, each with a docstring, in rooms that say what they may import.

A length is a number of lines without those of docstrings: see :func:`tests.house.source.line_count`.
"""

from __future__ import annotations

import ast

import pytest

from tests.house.source import FILES, PACKAGE, definitions, docstring_lines, line_count, name_of, tree_of

FILE = 350
CLASS = 350
CLASSES = {"Pruner": 300, "DynamicPruning": 300}
FUNCTION = 60
ROOMS = [path for path in FILES if path.name == "__init__.py" and path.parent != PACKAGE]


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_file_is_short(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) - len(docstring_lines(tree_of(path))) <= FILE


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_classes_and_functions_are_short(path):
    too_long = {}
    for name, node in definitions(tree_of(path)):
        limit = CLASSES.get(name, CLASS) if isinstance(node, ast.ClassDef) else FUNCTION
        if line_count(node) > limit:
            too_long[name] = f"{line_count(node)} lines, at most {limit}"
    assert not too_long


def test_the_two_central_classes_are_among_the_classes():
    names = {name for path in FILES for name, node in definitions(tree_of(path)) if isinstance(node, ast.ClassDef)}
    assert set(CLASSES) <= names


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_file_says_what_it_holds(path):
    assert ast.get_docstring(tree_of(path))
    assert path.stem not in {"utils", "util", "helpers", "common", "misc"}, "name the file after what it holds"


@pytest.mark.parametrize("path", ROOMS, ids=name_of)
def test_a_room_says_what_it_may_import_and_what_is_public(path):
    tree = tree_of(path)
    docstring = " ".join((ast.get_docstring(tree) or "").split())
    assert "import" in docstring.lower().partition(".")[2], "say after the first sentence what the room may import"
    names = [target.id for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
    assert "__all__" in names


def test_a_definition_is_counted_without_docstrings(tmp_path):
    source = '''
@property
def outer():
    """Two lines of a docstring

    and four with its blank line."""

    # A comment and a blank line count.
    def inner():
        """One line."""
        return 1

    return inner
'''
    (node,) = ast.parse(source).body
    assert isinstance(node, ast.FunctionDef)
    assert line_count(node) == 7
