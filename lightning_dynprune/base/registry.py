"""The registry that builds strategies, thresholds, schedules, patterns and formats from their names."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar, cast

Part = TypeVar("Part")
Cls = TypeVar("Cls", bound=type)


class Registry(Generic[Part]):
    """Maps names to the classes of one kind of part, and builds instances from settings.

    Args:
        kind: name of the setting in messages, such as "strategy".
        base: base class of all parts of this kind.

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
        """Return a class decorator that registers a class under ``name``.

        Raises:
            ValueError: another class is registered under this name.
        """

        def add(cls: Cls) -> Cls:
            if self._classes.setdefault(name, cls) is not cls:
                raise ValueError(f"{self.kind}={name!r} is registered already; choose another name")
            return cls

        return add

    def names(self) -> tuple[str, ...]:
        """Return the registered names, in the order of registration."""
        return tuple(self._classes)

    def __getitem__(self, name: str) -> type[Part]:
        """Return the class registered under ``name``.

        Raises:
            ValueError: the name is unknown; the message lists the registered names.
        """
        if not isinstance(name, str) or name not in self._classes:
            raise ValueError(f"{self.kind}={name!r} is unknown; known: {', '.join(self._classes)}")
        return self._classes[name]

    def build(self, spec: str | Mapping[str, Any] | Part, **defaults: Any) -> Part:
        """Return a part built from a name or a mapping of ``name`` and settings; an instance is returned as it is.

        Args:
            spec: the setting as the user gave it; in a mapping, ``name`` may also be a class.
            **defaults: settings to use where ``spec`` is not an instance and does not give them and its class has them.

        Raises:
            ValueError: a name or setting is unknown, or a required setting is missing.
            TypeError: ``spec`` is none of these.
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
        # The constructor and not the dataclass fields: a subclass may have an ``__init__`` of its own.
        accepted = inspect.signature(cls).parameters
        known = {p.name for p in accepted.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        settings = {key: value for key, value in settings.items() if key in spec or key in known}
        if unknown := sorted(set(settings) - known, key=str):
            raise ValueError(
                f"{self.kind} {spec['name']!r} has no setting {', '.join(map(repr, unknown))}; "
                f"it has: {', '.join(sorted(known)) or 'none'}"
            )
        needed = [name for name in accepted if name in known and accepted[name].default is inspect.Parameter.empty]
        if missing := [name for name in needed if name not in settings]:
            raise ValueError(f"{self.kind} {spec['name']!r} needs the setting {', '.join(map(repr, missing))}; give it")
        return cls(**settings)
