"""What a format is: a file that is written from a traced program, and a runtime that runs it."""

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
    """A model that a format cannot hold, or a file that does not compute what the model does."""


def error_summary(error: Exception) -> str:
    """Return the kind of an error and the first line of what it says; the rest is in the cause."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no message'])[0]}"


class Format(ABC):
    """A format of files, and its runtime on the CPU.

    A subclass is a dataclass whose fields are its settings.
    """

    name: ClassVar[str]
    suffix: ClassVar[str]
    extra: ClassVar[str | None] = None
    packages: ClassVar[tuple[str, ...]] = ()
    supports_dynamic_batch: ClassVar[bool] = True

    @property
    def largest_batch(self) -> int | None:
        """Samples that a call may have at most; None where there is no limit."""
        return None

    @abstractmethod
    def write(self, program: ExportedProgram, path: Path) -> None:
        """Write a traced program into ``path``, and into nothing but files of the same name with other suffixes."""

    @abstractmethod
    def runner(self, path: Path) -> Runner:
        """Return a function of the file: input tensors in their order -> output tensors in theirs.

        It computes with as many threads as torch does when this is called.
        """

    def require(self) -> None:
        """Import what this format needs.

        Raises:
            ImportError: a package is missing; the message says what to install.
        """
        for package in self.packages:
            self.load(package)

    def load(self, module: str) -> Any:
        """Return a module of this format's packages, imported.

        Raises:
            ImportError: it is missing; the message says what to install.
        """
        try:
            return importlib.import_module(module)
        except ImportError as error:
            raise ImportError(
                f"format={self.name!r} needs {module}, which does not import ({error}); "
                f"pip install 'lightning-dynprune[{self.extra}]'"
            ) from error


FORMATS: Registry[Format] = Registry("format", Format)
