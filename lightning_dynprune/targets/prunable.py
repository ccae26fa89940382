"""Checks that a parameter can be pruned: it has values, and its zeros are zeros of the weight its layer uses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized

# Masks multiply the bits of an entry, so its dtype needs an integer of the same size.
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def parametrized_originals(module: nn.Module) -> Iterator[tuple[nn.Parameter, str]]:
    """Yield the parameters that a module's parametrized tensors are computed from, with the name of each tensor.

    Args:
        module: any module, with ``torch.nn.utils.parametrize`` or without, which yields nothing.

    Example:
        >>> linear = torch.nn.utils.parametrizations.orthogonal(nn.Linear(2, 2))
        >>> [name for _, name in parametrized_originals(linear)]
        ['weight']
    """
    if is_parametrized(module):
        chains = module.parametrizations
        assert isinstance(chains, nn.ModuleDict)
        for name, chain in chains.items():
            for parameter in chain.parameters(recurse=False):
                yield parameter, name


def check_prunable(name: str, parameter: nn.Parameter, owners: Iterable[tuple[nn.Module, str]]) -> None:
    """Raise if a parameter cannot be pruned.

    Args:
        name: its qualified name.
        parameter: the parameter.
        owners: the modules that hold it, with its name in each.

    Raises:
        ValueError: it has no values yet, its dtype or layout is not supported, or the layer computes its weight from
            it, so that zeros of one need not be zeros of the other.
    """
    if isinstance(parameter, UninitializedParameter):
        raise ValueError(f"{name} is lazy and has no shape yet; run one batch through the model first")
    if parameter.is_meta:
        raise ValueError(
            f"{name} is on the meta device and has no values; give the model its values first (to_empty, then load or "
            "initialise its values), or exclude it from targets"
        )
    if parameter.dtype not in DTYPES or parameter.layout != torch.strided:
        accepted = ", ".join(map(str, DTYPES))
        raise ValueError(
            f"{name} is of {parameter.dtype}, {parameter.layout}; accepted are {accepted} with {torch.strided}; "
            "exclude it from targets"
        )
    for module, local in owners:
        if isinstance(module, ParametrizationList):
            how = " and ".join(type(step).__name__.lstrip("_") for step in module)
            raise ValueError(
                f"parametrization {how} computes a weight from {name}, and zeros of {name} need not be zeros of the "
                "weight; call torch.nn.utils.parametrize.remove_parametrizations on the module first, or exclude it "
                "from targets"
            )
        made = local.rpartition("_")[0]  # torch's weight_norm and prune name the parameter weight_g, weight_orig
        own = dict(module.named_parameters(recurse=False, remove_duplicate=False))
        if made and made not in own and isinstance(getattr(module, made, None), Tensor):
            whole = name.removesuffix(local) + made
            by_prune = local == f"{made}_orig" and f"{made}_mask" in dict(module.named_buffers(recurse=False))
            raise ValueError(
                f"{whole} is pruned by torch.nn.utils.prune already; call prune.remove on it first, or exclude it from "
                "targets"
                if by_prune
                else f"{whole} is computed from {name} by a hook, such as torch.nn.utils.weight_norm or spectral_norm, "
                "and zeros of one need not be zeros of the other; call remove_weight_norm or remove_spectral_norm on "
                "the module first, or exclude it from targets"
            )
