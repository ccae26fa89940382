"""The parameters of a model with their names and the modules that own them, and how selectors match them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import TypeAlias

from torch import nn

from lightning_dynprune.base import CONVOLUTIONS, name_some
from lightning_dynprune.targets.prunable import parametrized_originals

Selector: TypeAlias = "str | type[nn.Module]"
Convolution: TypeAlias = (
    "nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d"
)

PRUNABLE_TYPES: tuple[type[nn.Module], ...] = (nn.Linear, *CONVOLUTIONS, nn.MultiheadAttention)
LOOKUP_TYPES = (nn.Embedding, nn.EmbeddingBag)


class Catalog:
    """The parameters of a model, in order, with all their names and owners.

    Args:
        model: the network.

    Attributes:
        names: parameter -> its qualified names, the first one first.
        owners: parameter -> the modules that hold it, and its name in each.
    """

    def __init__(self, model: nn.Module) -> None:
        self.names: dict[nn.Parameter, list[str]] = {}
        self.owners: dict[nn.Parameter, list[tuple[nn.Module, str]]] = {}
        for prefix, module in model.named_modules():
            for local, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
                name = f"{prefix}.{local}" if prefix else local
                self.names.setdefault(parameter, []).append(name)
                self.owners.setdefault(parameter, []).append((module, local))
        for prefix, module in model.named_modules():
            # A selector that matches a parametrized weight also matches the parameters it is computed from.
            for parameter, local in parametrized_originals(module):
                self.names[parameter].append(f"{prefix}.{local}" if prefix else local)
                self.owners[parameter].append((module, local))
        self.names = {p: self.names[p] for p in model.parameters()}

    def all_names(self) -> list[str]:
        """Return all names of all parameters."""
        return [name for names in self.names.values() for name in names]

    def convolution(self, parameter: nn.Parameter) -> Convolution | None:
        """Return the convolution whose weight a parameter is; None if there is none."""
        owners = [module for module, local in self.owners[parameter] if local == "weight"]
        return next((module for module in owners if isinstance(module, CONVOLUTIONS)), None)

    def has_sparse_gradients(self, parameter: nn.Parameter) -> bool:
        """Return whether a parameter belongs to an embedding with ``sparse=True``."""
        return any(isinstance(module, LOOKUP_TYPES) and module.sparse for module, _ in self.owners[parameter])

    def default(self) -> list[nn.Parameter]:
        """Return the default targets: weights of the prunable layer types that no embedding shares."""
        return [
            parameter
            for parameter, owners in self.owners.items()
            if any(isinstance(module, PRUNABLE_TYPES) and "weight" in local for module, local in owners)
            and not any(isinstance(module, LOOKUP_TYPES) for module, _ in owners)
            and (parameter.is_floating_point() or parameter.is_complex())
        ]

    def select(self, selector: Selector, setting: str) -> list[nn.Parameter]:
        """Return the parameters that a glob or a module type matches.

        Args:
            selector: a glob on parameter names or a module type.
            setting: name of the setting that gives the selector, for messages.

        Raises:
            TypeError: the selector is neither.
            ValueError: it matches no parameter.
        """
        if isinstance(selector, str):
            matched = [p for p in self.names if any(fnmatchcase(name, selector) for name in self.names[p])]
            prunable = set(self.default())
            matched = [p for p in matched if p in prunable] or matched
        elif isinstance(selector, type) and issubclass(selector, nn.Module):
            matched = [
                p
                for p, owners in self.owners.items()
                if any(isinstance(module, selector) and "weight" in local for module, local in owners)
            ]
        else:
            raise TypeError(
                f"{setting}={selector!r} is not accepted; give globs on parameter names ('encoder.*.weight') "
                "or module types (torch.nn.Linear)"
            )
        if not matched:
            what = selector if isinstance(selector, str) else selector.__name__
            known = name_some(self.all_names(), most=12)
            raise ValueError(f"{setting}: {what!r} matches no parameter; there are {known}")
        return matched


def selectors_in(selectors: Selector | Sequence[Selector], setting: str) -> Iterator[Selector]:
    """Yield the selectors of a setting that takes one selector or a sequence of them.

    Raises:
        TypeError: the setting is neither.
    """
    if isinstance(selectors, (str, type)):
        yield selectors
        return
    try:
        yield from selectors
    except TypeError:
        mapping = " or a mapping" if setting == "targets" else ""
        raise TypeError(f"{setting}={selectors!r} is not accepted; give globs or module types{mapping}") from None
