"""Public names of a package that are imported when they are first used (PEP 562)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def lazy_names(
    package: str, modules: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the functions ``__getattr__`` and ``__dir__`` of a package whose names are imported on first use.

    Type checkers do not run these functions: import the names under ``TYPE_CHECKING`` too.

    Args:
        package: the package's ``__name__``.
        modules: full name of a module -> the names that it defines.

    Example:
        >>> get, names = lazy_names("types", {"fractions": ["Fraction"]})
        >>> get("Fraction")(1, 2)
        Fraction(1, 2)
        >>> "Fraction" in names(), "SimpleNamespace" in names()
        (True, True)
    """
    origins = {name: module for module, names in modules.items() for name in names}

    def get(name: str) -> Any:
        if name not in origins:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(origins[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *origins})

    return get, names
