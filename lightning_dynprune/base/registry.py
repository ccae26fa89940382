"""Named parts: how a setting such as ``strategy="magnitude"`` becomes an object."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import MISSING, is_dataclass
from typing import Any, Generic, TypeVar, cast

Part = TypeVar("Part")
Cls = TypeVar("Cls", bound=type)


class Registry(Generic[Part]):
    """Names of one kind of part, and the class behind each.

    Args:
        kind: the setting the names belong to, as messages print it ("strategy").
        base: the class that every part of this kind derives from.

    Example:
        >>> from lightning_dynprune.strategies import STRATEGIES
        >>> STRATEGIES.build({"name": "magnitude", "norm": 2})
        Magnitude(norm=2)
    """

    def __init__(self, kind: str, base: type[Any]) -> None:
        self.kind = kind
        self.base = base
        self._classes: dict[str, type[Any]] = {}

    def register(self, name: str) -> Callable[[Cls], Cls]:
        """Class decorator that makes a class known under ``name``."""

        def add(cls: Cls) -> Cls:
            if self._classes.setdefault(name, cls) is not cls:
                raise ValueError(f"{self.kind}={name!r} is registered already; choose another name")
            return cls

        return add

    def names(self) -> tuple[str, ...]:
        """Return the known names, in the order of their registration."""
        return tuple(self._classes)

    def __getitem__(self, name: str) -> type[Part]:
        """Return the class known under ``name``.

        Raises:
            ValueError: the name is unknown; the message lists the known ones.
        """
        if not isinstance(name, str) or name not in self._classes:
            raise ValueError(f"{self.kind}={name!r} is unknown; known: {', '.join(self._classes)}")
        return self._classes[name]

    def build(self, spec: str | Mapping[str, Any] | Part, **defaults: Any) -> Part:
        """Make a part from a name, a mapping (``name`` and settings) or pass an instance through.

        Args:
            spec: the setting as the user gave it; the name in a mapping may be the class itself.
            **defaults: settings used where ``spec`` is no instance and does not give them.

        Raises:
            ValueError: unknown name or setting, or one that is needed is not given.
            TypeError: ``spec`` is none of the three.
        """
        if isinstance(spec, self.base):
            return cast("Part", spec)
        if isinstance(spec, str):
            spec = {"name": spec}
        if not isinstance(spec, Mapping) or "name" not in spec:
            raise TypeError(
                f"{self.kind}={spec!r} is not accepted; give a name ({', '.join(self._classes)}), "
                f"a mapping with 'name' and settings, or a {self.base.__name__} instance"
            )
        settings: dict[str, Any] = {**defaults, **cast("Mapping[str, Any]", spec)}
        name = settings.pop("name")
        cls = cast("type[Part]", name) if isinstance(name, type) and issubclass(name, self.base) else self[name]
        fields = {f.name: f for f in dataclasses.fields(cast("Any", cls)) if f.init} if is_dataclass(cls) else {}
        known = set(fields)
        if unknown := sorted(set(settings) - known, key=str):
            raise ValueError(
                f"{self.kind} {spec['name']!r} has no setting {', '.join(map(repr, unknown))}; "
                f"it has: {', '.join(sorted(known)) or 'none'}"
            )
        needed = [name for name, f in fields.items() if f.default is MISSING and f.default_factory is MISSING]
        if missing := [name for name in needed if name not in settings]:
            raise ValueError(f"{self.kind} {spec['name']!r} needs the setting {', '.join(map(repr, missing))}; give it")
        return cls(**settings)
