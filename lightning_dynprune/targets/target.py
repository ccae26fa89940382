"""Which parameters are pruned, and the view of one that a strategy scores."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from lightning_dynprune.base import check_count, check_share, name_some
from lightning_dynprune.distributed import Shard, is_sharded, local_part
from lightning_dynprune.targets.prunable import check_prunable, parametrized_originals

Selector: TypeAlias = "str | type[nn.Module]"
Targets: TypeAlias = "Selector | Sequence[Selector] | Mapping[str, Any] | None"

PRUNABLE_TYPES: tuple[type[nn.Module], ...] = (nn.Linear, _ConvNd, nn.MultiheadAttention)
_LOOKUP_TYPES = (nn.Embedding, nn.EmbeddingBag)
_SETTINGS = ("sparsity", "min_kept")


@dataclass(eq=False)
class Target:
    """One prunable parameter.

    Attributes:
        name: qualified name of the parameter in the model.
        parameter: the parameter itself, never wrapped.
        min_kept: connections that must stay, at least.
        sparsity: this target's own sparsity at the end, for the scope ``layer``; None elsewhere.
        groups: of a grouped convolution's weight; 1 elsewhere.
        transposed: the weight of a transposed convolution, whose inputs come first.
        shard: what part of it this process holds; None: all of it.
        sparse_gradients: the weight of an embedding whose gradients come as sparse tensors.
        state: what the strategy remembers of this target.
        memory: what the threshold remembers of this target.
    """

    name: str
    parameter: nn.Parameter
    min_kept: int = 1
    sparsity: float | None = None
    groups: int = 1
    transposed: bool = False
    shard: Shard | None = None
    sparse_gradients: bool = False
    state: dict[str, Tensor] = field(default_factory=dict)
    memory: dict[str, Tensor] = field(default_factory=dict)

    @property
    def numel(self) -> int:
        """Connections of this target, over all processes that hold parts of it."""
        return self.parameter.numel()

    @property
    def values(self) -> Tensor:
        """The parameter's values, or the part of them that this process holds; it shares their memory."""
        return local_part(self.parameter).detach()

    @property
    def grad(self) -> Tensor | None:
        """The parameter's gradient, or the part of it that this process holds."""
        grad = self.parameter.grad
        return None if grad is None else local_part(grad)

    def full_tensor(self, part: Tensor) -> Tensor:
        """Return the whole of a tensor of which every process holds the part that lies beside its values."""
        return part if self.shard is None else self.shard.full_tensor(part)

    def local_part(self, whole: Tensor) -> Tensor:
        """Return of a tensor shaped like the target the part that lies beside the values here."""
        return whole if self.shard is None else self.shard.local_box(whole)

    def view(self, mask: Tensor, seed: int = 0, run_seed: int = 0, step: int = 1) -> TargetView:
        """Return what a strategy sees of this target, shaped like its values here."""
        grad = self.grad
        if grad is not None and grad.layout != torch.strided:
            grad = None  # an embedding's sparse gradient has no entry for each connection
        return TargetView(self.name, self.values, grad, mask, self.state, seed, run_seed, step, shard=self.shard)


@dataclass
class TargetView:
    """A target, or a piece of it, as a strategy sees it: tensors of one shape, entry by entry.

    Attributes:
        name: qualified name of the target.
        weight: values, detached; where the strategy is latent, those behind the mask too.
        grad: the last gradient, or None where there is none.
        mask: bool, True = kept.
        state: what the strategy remembers, as its ``init_state`` made it; written by ``observe``.
        seed: differs between targets, updates and runs, and is the same on every rank.
        run_seed: differs between targets and runs only.
        step: optimizer steps done; 0 before training.
        start: flat index in the target of the first entry, where the piece is a slice.
        index: flat indices, where the piece was gathered.
        shard: what part of the target this process holds, where that is not all; ``start`` and ``index`` count in it.
    """

    name: str
    weight: Tensor
    grad: Tensor | None
    mask: Tensor
    state: dict[str, Tensor]
    seed: int
    run_seed: int = 0
    step: int = 1
    start: int = 0
    index: Tensor | None = None
    shard: Shard | None = None

    @property
    def positions(self) -> Tensor:
        """Flat index in the whole target of every entry: int64, shaped like ``weight``."""
        index = self.index
        if index is None:
            stop = self.start + self.weight.numel()
            index = torch.arange(self.start, stop, device=self.weight.device).view(self.weight.shape)
        return index if self.shard is None else self.shard.positions(index)

    def gradient(self) -> Tensor:
        """Return ``grad``.

        Raises:
            RuntimeError: there is none.
        """
        if self.grad is None:
            raise RuntimeError(
                f"{self.name} has no gradient at this update, and the strategy reads it; update after a backward pass "
                "and before zero_grad, or exclude the target"
            )
        return self.grad

    def flat(self) -> TargetView:
        """Return the same entries in one dimension; a copy only where the layout is not contiguous."""
        return self._map(lambda tensor: tensor.reshape(-1), start=self.start)

    def piece(self, start: int, stop: int) -> TargetView:
        """Return entries ``start`` to ``stop`` of a flat view."""
        return self._map(lambda tensor: tensor[start:stop], start=self.start + start)

    def gather(self, index: Tensor) -> TargetView:
        """Return the entries of a flat view at ``index`` (int64, one dimension)."""
        return self._map(lambda tensor: tensor[index], index=index)

    def _map(self, change: Any, start: int = 0, index: Tensor | None = None) -> TargetView:
        grad = None if self.grad is None else change(self.grad)
        state = {key: change(value) for key, value in self.state.items()}
        return dataclasses.replace(
            self, weight=change(self.weight), grad=grad, mask=change(self.mask), state=state, start=start, index=index
        )


def find_targets(
    model: nn.Module,
    targets: Targets = None,
    exclude: Selector | Sequence[Selector] = (),
    min_kept: int = 1,
) -> list[Target]:
    """Return a model's targets, in the order of its parameters.

    By default the weights of Linear, Conv1d/2d/3d (transposed too) and attention projections; no biases, norms or
    embeddings, nor a weight that is tied to an embedding. A tied parameter is one target, under its first name.

    Args:
        model: the network; parameters must be initialised.
        targets: a glob on qualified parameter names, a module type, a sequence of those, or an ordered mapping
            glob -> settings (``sparsity``, ``min_kept``; a bare number is a sparsity), of which the first match
            wins. A glob looks among the default targets, and among all parameters where it matches none of them.
        exclude: globs and types that are never pruned.
        min_kept: connections that every target keeps, at least.

    Raises:
        ValueError: a glob or type matches nothing, a setting is unknown or out of range, nothing is left to prune, or
            a chosen parameter cannot be pruned, see :func:`~lightning_dynprune.targets.prunable.check_prunable`.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3), nn.Linear(3, 2))
        >>> [target.name for target in find_targets(net, exclude="2.*")]
        ['0.weight']
    """
    min_kept = check_count("min_kept", min_kept)
    catalog = _Catalog(model)
    chosen = _chosen(catalog, targets, exclude)
    found, frozen = [], []
    for parameter, names in catalog.names.items():
        if parameter not in chosen:
            continue
        if not parameter.requires_grad:
            frozen.append(names[0])
            continue
        check_prunable(names[0], parameter, catalog.owners[parameter])
        settings = _settings(names[0], chosen[parameter], min_kept)
        convolution = catalog.convolution(parameter)
        groups, transposed = (1, False) if convolution is None else (convolution.groups, convolution.transposed)
        shard = Shard.from_tensor(parameter) if is_sharded(parameter) else None
        sparse = any(isinstance(module, _LOOKUP_TYPES) and module.sparse for module, _ in catalog.owners[parameter])
        found.append(Target(names[0], parameter, groups=groups, transposed=transposed, shard=shard, **settings))
        found[-1].sparse_gradients = sparse
    if frozen:
        warnings.warn(f"frozen, so not pruned: {', '.join(frozen)}", stacklevel=2)
    if not found:
        raise ValueError(
            f"nothing to prune: targets={targets!r} with exclude={exclude!r} leaves no trainable parameter of "
            f"{type(model).__name__}; its parameters are {name_some(catalog.all_names(), most=12)}"
        )
    return found


def frozen_targets(model: nn.Module, targets: Targets = None, exclude: Selector | Sequence[Selector] = ()) -> list[str]:
    """Return the names of the parameters that :func:`find_targets` leaves out because they are frozen."""
    catalog = _Catalog(model)
    chosen = _chosen(catalog, targets, exclude)
    return [names[0] for p, names in catalog.names.items() if p in chosen and not p.requires_grad]


def _chosen(catalog: _Catalog, targets: Targets, exclude: Selector | Sequence[Selector]) -> dict[nn.Parameter, Any]:
    """Return the parameters that are selected, frozen or not, with the settings given for each."""
    if targets is None:
        chosen: dict[nn.Parameter, Any] = dict.fromkeys(catalog.default(), None)
    elif isinstance(targets, Mapping):
        chosen = {}
        for pattern, settings in targets.items():
            for parameter in catalog.select(pattern, "targets"):
                chosen.setdefault(parameter, settings)
    else:
        chosen = {p: None for selector in _listed(targets, "targets") for p in catalog.select(selector, "targets")}
    left_out = {p for selector in _listed(exclude, "exclude") for p in catalog.select(selector, "exclude")}
    return {parameter: settings for parameter, settings in chosen.items() if parameter not in left_out}


class _Catalog:
    """The parameters of a model, their names and the modules that own them."""

    def __init__(self, model: nn.Module) -> None:
        self.names: dict[nn.Parameter, list[str]] = {}
        self.owners: dict[nn.Parameter, list[tuple[nn.Module, str]]] = {}
        for prefix, module in model.named_modules():
            for local, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
                name = f"{prefix}.{local}" if prefix else local
                self.names.setdefault(parameter, []).append(name)
                self.owners.setdefault(parameter, []).append((module, local))
        for prefix, module in model.named_modules():
            # What is chosen by the name or the module of a weight is chosen where the weight is computed, too.
            for parameter, local in parametrized_originals(module):
                self.names[parameter].append(f"{prefix}.{local}" if prefix else local)
                self.owners[parameter].append((module, local))
        self.names = {p: self.names[p] for p in model.parameters()}

    def all_names(self) -> list[str]:
        return [name for names in self.names.values() for name in names]

    def convolution(self, parameter: nn.Parameter) -> _ConvNd | None:
        owners = [module for module, local in self.owners[parameter] if local == "weight"]
        return next((module for module in owners if isinstance(module, _ConvNd)), None)

    def default(self) -> list[nn.Parameter]:
        return [
            parameter
            for parameter, owners in self.owners.items()
            if any(isinstance(module, PRUNABLE_TYPES) and "weight" in local for module, local in owners)
            and not any(isinstance(module, _LOOKUP_TYPES) for module, _ in owners)
            and (parameter.is_floating_point() or parameter.is_complex())
        ]

    def select(self, selector: Selector, setting: str) -> list[nn.Parameter]:
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


def _listed(selectors: Selector | Sequence[Selector], setting: str) -> Iterator[Selector]:
    if isinstance(selectors, (str, type)):
        yield selectors
        return
    try:
        yield from selectors
    except TypeError:
        mapping = " or a mapping" if setting == "targets" else ""
        raise TypeError(f"{setting}={selectors!r} is not accepted; give globs or module types{mapping}") from None


def _settings(name: str, given: Any, min_kept: int) -> dict[str, Any]:
    settings: dict[str, Any] = {"min_kept": min_kept}
    if given is None:
        return settings
    if not isinstance(given, Mapping):
        given = {"sparsity": given}
    if unknown := sorted(set(given) - set(_SETTINGS), key=str):
        raise ValueError(f"targets: {name} has unknown setting {unknown[0]!r}; known: {', '.join(_SETTINGS)}")
    settings = {**settings, **given}
    if settings.get("sparsity") is not None:
        settings["sparsity"] = check_share(f"targets: sparsity of {name}", settings["sparsity"])
    settings["min_kept"] = check_count(f"targets: min_kept of {name}", settings["min_kept"])
    return settings
