"""Define a file format: how to write it from a traced program, and how to run it."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from lightning_dynprune.base import Registry

if TYPE_CHECKING:
    from torch.export import ExportedProgram

Runner = Callable[..., list[Tensor]]


class ExportError(ValueError):
    """A model that cannot be exported to a format, or a file whose outputs differ from the model's."""


def error_summary(error: Exception) -> str:
    """Return the type of an exception and the first line of its message."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no message'])[0]}"


class Format(ABC):
    """A file format and its runtime on the CPU.

    A subclass is a dataclass whose fields are the format's settings.

    Attributes:
        name: name of the format, as messages print it.
        suffix: suffix of its files.
        extra: the optional dependency group of this package that installs the runtime.
        packages: modules that writing and running need.
        supports_dynamic_batch: whether a file accepts any batch size.
    """

    name: ClassVar[str]
    suffix: ClassVar[str]
    extra: ClassVar[str | None] = None
    packages: ClassVar[tuple[str, ...]] = ()
    supports_dynamic_batch: ClassVar[bool] = True

    @property
    def largest_batch(self) -> int | None:
        """Maximum batch size of a file; None where there is no maximum."""
        return None

    @abstractmethod
    def write(self, program: ExportedProgram, path: Path) -> None:
        """Write a traced program to ``path``; other files must have the same name with other suffixes."""

    @abstractmethod
    def runner(self, path: Path) -> Runner:
        """Return a function that runs the file: input tensors in order -> output tensors in order.

        It uses as many threads as torch does at the time of this call.
        """

    def require(self) -> None:
        """Import the packages that this format needs.

        Raises:
            ImportError: a package is not installed; the message says what to install.
        """
        for package in self.packages:
            self.load(package)

    def load(self, module: str) -> Any:
        """Return one of the format's modules, imported.

        Raises:
            ImportError: it is not installed; the message says what to install.
        """
        try:
            return importlib.import_module(module)
        except ImportError as error:
            raise ImportError(
                f"format={self.name!r} needs {module}, which does not import ({error}); "
                f"pip install 'lightning-dynprune[{self.extra}]'"
            ) from error


FORMATS: Registry[Format] = Registry("format", Format)
