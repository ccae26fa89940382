"""Which share of a model's parameters the targets hold, and what they leave out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn
from torch.nn.parameter import UninitializedParameter

from lightning_dynprune.targets.catalog import LOOKUP_TYPES, Catalog, is_prunable_type
from lightning_dynprune.targets.target import Target

_RECURRENT = (nn.RNNBase, nn.RNNCellBase)
_MOST = 3  # types of modules to name


@dataclass(frozen=True)
class Coverage:
    """The share of a model's parameters that the targets hold.

    Attributes:
        held: number of entries in the targets.
        total: number of entries in all parameters of the model.
        left_out: type of module -> number of entries that are in no target, the largest first.
        remedy: how to take in the largest of them; empty if nothing is left out.
    """

    held: int
    total: int
    left_out: dict[str, int]
    remedy: str

    @property
    def share(self) -> float:
        """Share of the model's parameters that the targets hold."""
        return self.held / self.total if self.total else 0.0

    @property
    def is_low(self) -> bool:
        """Whether the targets hold less than half of the parameters."""
        return self.share < 0.5

    @property
    def text(self) -> str:
        """The share, and what is left out, in one line; where the share is low, with the setting that takes it in."""
        line = f"targets hold {self.held:,} of {self.total:,} parameters ({self.share:.1%})"
        if not self.left_out:
            return line
        named = [f"{name} {count:,}" for name, count in list(self.left_out.items())[:_MOST]]
        if rest := sum(list(self.left_out.values())[_MOST:]):
            named.append(f"others {rest:,}")
        line += f"; left out: {', '.join(named)}"
        return f"{line}; sparsity counts the targets alone; {self.remedy}" if self.is_low else line


def coverage(model: nn.Module, targets: Sequence[Target]) -> Coverage:
    """Return which share of a model's parameters the targets hold, and what is left out by type of module.

    Args:
        model: the network.
        targets: of the network.

    Example:
        >>> from lightning_dynprune.targets.finding import find_targets
        >>> net = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
        >>> coverage(net, find_targets(net)).text
        'targets hold 16 of 28 parameters (57.1%); left out: LayerNorm 8, bias of Linear 4'
    """
    catalog = Catalog(model)
    chosen = {target.parameter for target in targets}
    counts: Counter[str] = Counter()
    remedies: dict[str, str] = {}
    outside = Outside(catalog)
    for parameter in catalog.names:
        if parameter in chosen or isinstance(parameter, UninitializedParameter):
            continue
        label, remedy = outside.describe(parameter)
        counts[label] += parameter.numel()
        remedies.setdefault(label, remedy)
    held = sum(target.numel for target in targets)
    largest = dict(counts.most_common())
    return Coverage(held, held + counts.total(), largest, remedies[next(iter(largest))] if largest else "")


class Outside:
    """Describes parameters that are no targets.

    Args:
        catalog: the parameters of a model.
    """

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self._default, self._matrices = set(catalog.default()), set(catalog.own_matrices())

    def describe(self, parameter: nn.Parameter) -> tuple[str, str]:
        """Return the type of a parameter's module, as a summary names it, and the setting that takes it in."""
        owners = self.catalog.owners[parameter]
        module, local = owners[0]
        kind, name = type(module).__name__, self.catalog.names[parameter][0]
        lookup = next((type(owner).__name__ for owner, _ in owners if isinstance(owner, LOOKUP_TYPES)), None)
        if not parameter.requires_grad:
            return f"frozen {kind}", "parameters that are frozen are pruned after requires_grad_(True)"
        if isinstance(module, _RECURRENT):
            return kind, f"{self._targets('*weight_hh*', '*weight_ih*')} takes in {kind}"
        if is_prunable_type(module) and "bias" in local:
            return f"bias of {kind}", f"{self._targets('*.bias')} takes in the biases"
        if parameter in self._default:
            return kind, f"wider targets, or an exclude that does not match {name}, take in {kind}"
        if parameter in self._matrices:
            return kind, f"targets='*' takes in the matrices of {kind}"
        return lookup or kind, f"{self._targets(name)} takes in {name} of {lookup or kind}"

    def _targets(self, *globs: str) -> str:
        """Return the setting that selects globs beside the weights, if there are any."""
        return f"targets={[*(['*'] if self._default or self._matrices else []), *globs]}"
