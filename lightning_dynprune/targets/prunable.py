"""What a parameter must be to be pruned: values of its own, whose zeros are those that its layer multiplies by."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized

# Types that have an integer of their own size, by whose product with a mask pruned entries become +0.0.
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def parametrized_originals(module: nn.Module) -> Iterator[tuple[nn.Parameter, str]]:
    """Yield the parameters from which ``torch.nn.utils.parametrize`` computes tensors of a module, and which tensor.

    Args:
        module: any; one without parametrizations yields nothing.

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
    """Raise where a parameter cannot be pruned.

    Args:
        name: its qualified name.
        parameter: the parameter.
        owners: the modules that hold it, and its name in each.

    Raises:
        ValueError: it has no values yet, is of a type or layout without single connections, or a layer's weight is
            computed from it, so that its zeros need not be the layer's.
    """
    if isinstance(parameter, UninitializedParameter):
        raise ValueError(f"{name} is lazy and has no shape yet; run one batch through the model first")
    if parameter.is_meta:
        raise ValueError(
            f"{name} is on the meta device and has no values; give the model its values first (to_empty, then load or "
            "initialise them), or exclude it from targets"
        )
    if parameter.dtype not in DTYPES or parameter.layout != torch.strided:
        accepted = ", ".join(map(str, DTYPES))
        raise ValueError(
            f"{name} is of {parameter.dtype}, {parameter.layout}, and connections are entries of {accepted}, "
            f"{torch.strided}; exclude it from targets"
        )
    for module, local in owners:
        if isinstance(module, ParametrizationList):
            how = " and ".join(type(step).__name__.lstrip("_") for step in module)
            raise ValueError(
                f"{name} is what parametrization {how} computes a weight from, and its zeros need not be the weight's; "
                "call torch.nn.utils.parametrize.remove_parametrizations on the module first, or exclude it from "
                "targets"
            )
        made = local.rpartition("_")[0]
        if made and made not in module._parameters and isinstance(getattr(module, made, None), Tensor):
            whole = name.removesuffix(local) + made
            by_prune = local == f"{made}_orig" and f"{made}_mask" in module._buffers
            raise ValueError(
                f"{whole} is pruned by torch.nn.utils.prune already; call prune.remove on it first, or exclude it from "
                "targets"
                if by_prune
                else f"{whole} is computed from {name} by a hook, as torch.nn.utils.weight_norm or spectral_norm have "
                "it, and zeros of the one need not be the other's; call remove_weight_norm or remove_spectral_norm on "
                "the module first, or exclude it from targets"
            )
