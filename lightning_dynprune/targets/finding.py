"""Find the targets of a model: which of its parameters are pruned, with their settings."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from torch import nn

from lightning_dynprune.base import check_count, check_share, name_some
from lightning_dynprune.distributed import Shard, is_sharded
from lightning_dynprune.targets.catalog import Catalog, Selector, selectors_in
from lightning_dynprune.targets.covering import Outside
from lightning_dynprune.targets.prunable import check_prunable
from lightning_dynprune.targets.target import Target

Targets: TypeAlias = "Selector | Sequence[Selector] | Mapping[str, Any] | None"

_SETTINGS = ("sparsity", "min_kept")


def find_targets(
    model: nn.Module,
    targets: Targets = None,
    exclude: Selector | Sequence[Selector] = (),
    min_kept: int = 1,
) -> list[Target]:
    """Return a model's targets, in the order of its parameters.

    By default these are the weights of Linear, Conv1d/2d/3d (transposed too), attention projections, transformers'
    Conv1D and 3-D experts; biases, norms, embeddings, recurrent layers and weights tied to an embedding are not pruned.
    A tied parameter is one target, under its first name.

    A glob selects the first of three kinds of parameters that it matches: weights, that is, default targets and the
    matrices that own modules hold as parameters (``lora_A``); biases of the layers pruned by default; all others,
    such as those of norms, embeddings and recurrent layers. So ``"*"`` and ``"*.weight"`` select weights, ``"*.bias"``
    the biases of the same layers, and ``"norm.*"`` or ``"*.weight_hh*"`` what it names.

    Args:
        model: the network; parameters must be initialised.
        targets: a glob on qualified parameter names, a module type, a sequence of those, or an ordered mapping
            glob -> settings (``sparsity``, ``min_kept``; a bare number is a sparsity), of which the first match
            wins.
        exclude: globs and types of which no parameter is pruned, of whatever kind.
        min_kept: smallest number of connections that every target keeps.

    Raises:
        ValueError: a glob or type matches nothing, a setting is unknown or out of range, nothing is left to prune, or
            a chosen parameter cannot be pruned, see :func:`~lightning_dynprune.targets.prunable.check_prunable`.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3), nn.Linear(3, 2))
        >>> [target.name for target in find_targets(net, exclude="2.*")]
        ['0.weight']
    """
    min_kept = check_count("min_kept", min_kept)
    catalog = Catalog(model)
    chosen = _chosen(catalog, targets, exclude)
    found, frozen = [], []
    for parameter, names in catalog.names.items():
        if parameter not in chosen:
            continue
        if not parameter.requires_grad:
            frozen.append(names[0])
            continue
        check_prunable(names[0], parameter, catalog.owners[parameter])
        found.append(_target(catalog, parameter, _settings(names[0], chosen[parameter], min_kept)))
    if frozen:
        warnings.warn(f"frozen, so not pruned: {', '.join(frozen)}", stacklevel=2)
    if not found:
        reason = _reason(catalog, targets, exclude, bool(frozen))
        raise ValueError(
            f"nothing to prune: {reason}; targets={targets!r} with exclude={exclude!r} leaves no trainable parameter "
            f"of {type(model).__name__}; its parameters are {name_some(catalog.all_names(), most=12)}"
        )
    return found


def _reason(catalog: Catalog, targets: Targets, exclude: Selector | Sequence[Selector], frozen: bool) -> str:
    """Return why no target was found, and the setting that helps."""
    if frozen:
        return "all that targets selects is frozen; call requires_grad_(True) on what should be pruned"
    if selected := _chosen(catalog, targets, ()):
        return f"exclude={exclude!r} leaves out all {len(selected)} parameters that targets selects; exclude fewer"
    reason = "there is no layer of the types pruned by default (Linear, convolutions, attention, stacked experts)"
    outside = Outside(catalog)
    largest = max(catalog.names, key=lambda parameter: parameter.numel(), default=None)
    return reason if largest is None else f"{reason}; {outside.describe(largest)[1]}"


def frozen_targets(model: nn.Module, targets: Targets = None, exclude: Selector | Sequence[Selector] = ()) -> list[str]:
    """Return the names of the parameters that :func:`find_targets` leaves out because they are frozen."""
    catalog = Catalog(model)
    chosen = _chosen(catalog, targets, exclude)
    return [names[0] for p, names in catalog.names.items() if p in chosen and not p.requires_grad]


def _target(catalog: Catalog, parameter: nn.Parameter, settings: Mapping[str, Any]) -> Target:
    convolution = catalog.convolution(parameter)
    return Target(
        catalog.names[parameter][0],
        parameter,
        groups=1 if convolution is None else convolution.groups,
        transposed=catalog.has_inputs_first(parameter),
        known_layout=catalog.has_known_layout(parameter),
        shard=Shard.from_tensor(parameter) if is_sharded(parameter) else None,
        sparse_gradients=catalog.has_sparse_gradients(parameter),
        **settings,
    )


def _chosen(catalog: Catalog, targets: Targets, exclude: Selector | Sequence[Selector]) -> dict[nn.Parameter, Any]:
    """Return the selected parameters, frozen or not, with the settings given for each."""
    if targets is None:
        chosen: dict[nn.Parameter, Any] = dict.fromkeys(catalog.default(), None)
    elif isinstance(targets, Mapping):
        chosen = {}
        for pattern, settings in targets.items():
            for parameter in catalog.select(pattern, "targets"):
                chosen.setdefault(parameter, settings)
    else:
        selectors = selectors_in(targets, "targets")
        chosen = {p: None for selector in selectors for p in catalog.select(selector, "targets")}
    excluded = {p for selector in selectors_in(exclude, "exclude") for p in catalog.matching(selector, "exclude")}
    return {parameter: settings for parameter, settings in chosen.items() if parameter not in excluded}


def _settings(name: str, given: Any, min_kept: int) -> dict[str, Any]:
    """Return the checked settings of one target."""
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
