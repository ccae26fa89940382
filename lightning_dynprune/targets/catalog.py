"""The parameters of a model with their names and the modules that own them, and how selectors match them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import NoReturn, TypeAlias

from torch import nn

from lightning_dynprune.base import CONVOLUTIONS, name_some
from lightning_dynprune.targets.own_parameters import (
    has_inputs_first,
    has_known_layout,
    is_conv1d,
    is_expert_weight,
    is_own_matrix,
)
from lightning_dynprune.targets.prunable import parametrized_originals

Selector: TypeAlias = "str | type[nn.Module]"
Convolution: TypeAlias = (
    "nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d"
)

PRUNABLE_TYPES: tuple[type[nn.Module], ...] = (nn.Linear, *CONVOLUTIONS, nn.MultiheadAttention)
LOOKUP_TYPES = (nn.Embedding, nn.EmbeddingBag)


def is_prunable_type(module: nn.Module) -> bool:
    """Return whether the weight of a module is pruned by default."""
    return isinstance(module, PRUNABLE_TYPES) or is_conv1d(module)


class Catalog:
    """The parameters of a model, in order, with all their names and owners.

    Modules whose attribute ``holds_targets`` is False, such as early exits, are left out with all that they hold.

    Args:
        model: the network.

    Attributes:
        names: parameter -> its qualified names, the first one first.
        owners: parameter -> the modules that hold it, and its name in each.
    """

    def __init__(self, model: nn.Module) -> None:
        self.names: dict[nn.Parameter, list[str]] = {}
        self.owners: dict[nn.Parameter, list[tuple[nn.Module, str]]] = {}
        modules = list(_modules_with_targets(model))
        for prefix, module in modules:
            for local, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
                name = f"{prefix}.{local}" if prefix else local
                self.names.setdefault(parameter, []).append(name)
                self.owners.setdefault(parameter, []).append((module, local))
        for prefix, module in modules:
            # A selector that matches a parametrized weight also matches the parameters it is computed from.
            for parameter, local in parametrized_originals(module):
                self.names[parameter].append(f"{prefix}.{local}" if prefix else local)
                self.owners[parameter].append((module, local))
        self.names = {p: self.names[p] for p in model.parameters() if p in self.names}

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

    def has_inputs_first(self, parameter: nn.Parameter) -> bool:
        """Return whether a parameter is a weight whose first dimension is that of the inputs."""
        convolution = self.convolution(parameter)
        return (convolution is not None and convolution.transposed) or any(
            has_inputs_first(module, local, parameter) for module, local in self.owners[parameter]
        )

    def has_known_layout(self, parameter: nn.Parameter) -> bool:
        """Return whether it is known which dimensions of a parameter are inputs and which are outputs."""
        return all(has_known_layout(module, local, parameter) for module, local in self.owners[parameter])

    def default(self) -> list[nn.Parameter]:
        """Return the default targets: weights of the prunable layer types and of experts that no embedding shares."""
        return [
            parameter
            for parameter, owners in self.owners.items()
            if any(
                (is_prunable_type(module) and "weight" in local) or is_expert_weight(module, local, parameter)
                for module, local in owners
            )
            and not any(isinstance(module, LOOKUP_TYPES) for module, _ in owners)
            and (parameter.is_floating_point() or parameter.is_complex())
        ]

    def own_matrices(self) -> list[nn.Parameter]:
        """Return the matrices that are parameters of own modules, such as those of LoRA."""
        return [
            p for p, owners in self.owners.items() if any(is_own_matrix(module, local, p) for module, local in owners)
        ]

    def biases(self) -> list[nn.Parameter]:
        """Return the biases of the prunable layer types."""
        return [
            parameter
            for parameter, owners in self.owners.items()
            if any(is_prunable_type(module) and "bias" in local for module, local in owners)
        ]

    def select(self, selector: Selector, setting: str) -> list[nn.Parameter]:
        """Return the parameters that a glob or a module type selects as targets.

        A glob selects the first of these kinds that it matches: weights, which are the default targets and the
        matrices of own modules; biases of the default types; all other parameters. A type selects weights.

        Args:
            selector: a glob on parameter names or a module type.
            setting: name of the setting that gives the selector, for messages.

        Raises:
            TypeError: the selector is neither.
            ValueError: it matches no parameter.
        """
        matched = self.matching(selector, setting)
        if isinstance(selector, str):
            for kind in ([*self.default(), *self.own_matrices()], self.biases()):
                members = set(kind)
                if chosen := [p for p in matched if p in members]:
                    return chosen
            return matched
        weights = [
            p
            for p in matched
            if any(
                isinstance(module, selector) and ("weight" in local or self._is_main(module, local, p))
                for module, local in self.owners[p]
            )
        ]
        return weights or self._nothing(selector, setting)

    def matching(self, selector: Selector, setting: str) -> list[nn.Parameter]:
        """Return all parameters whose name a glob matches, or that modules of a type hold.

        Args:
            selector: a glob on parameter names or a module type.
            setting: name of the setting that gives the selector, for messages.

        Raises:
            TypeError: the selector is neither.
            ValueError: it matches no parameter.
        """
        if isinstance(selector, str):
            matched = [p for p in self.names if any(fnmatchcase(name, selector) for name in self.names[p])]
        elif isinstance(selector, type) and issubclass(selector, nn.Module):
            matched = [
                p for p, owners in self.owners.items() if any(isinstance(module, selector) for module, _ in owners)
            ]
        else:
            raise TypeError(
                f"{setting}={selector!r} is not accepted; give globs on parameter names ('encoder.*.weight') "
                "or module types (torch.nn.Linear)"
            )
        return matched or self._nothing(selector, setting)

    @staticmethod
    def _is_main(module: nn.Module, local: str, parameter: nn.Parameter) -> bool:
        return is_expert_weight(module, local, parameter) or is_own_matrix(module, local, parameter)

    def _nothing(self, selector: Selector, setting: str) -> NoReturn:
        """Raise as a selector matches nothing."""
        what = selector if isinstance(selector, str) else selector.__name__
        known = name_some(self.all_names(), most=12)
        raise ValueError(f"{setting}: {what!r} matches no parameter; there are {known}")


def _modules_with_targets(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the named modules of a model that may hold targets."""
    outside: set[nn.Module] = set()
    for name, module in model.named_modules():
        if getattr(module, "holds_targets", True) is False:
            outside.update(module.modules())
        if module not in outside:
            yield name, module


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
