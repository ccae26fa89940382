"""Replace smooth activations by ReLU, which has zeros, and put them back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from torch import nn

SWAPS = ("relu",)
_SMOOTH = (nn.GELU, nn.SiLU)


def is_smooth(module: nn.Module) -> bool:
    """Return whether a module is a GELU or a SiLU, of torch or of transformers.

    Those of transformers are recognised by the names of their types, so that it is not imported.
    """
    if isinstance(module, _SMOOTH):
        return True
    kind = type(module)
    is_theirs = kind.__module__.partition(".")[0] == "transformers" and not list(module.parameters())
    return is_theirs and any(word in kind.__name__.lower() for word in ("gelu", "silu"))


def find_smooth(model: nn.Module) -> list[str]:
    """Return the qualified names of all GELUs and SiLUs of a network.

    Example:
        >>> find_smooth(nn.Sequential(nn.Linear(2, 2), nn.GELU()))
        ['1']
    """
    return [name for name, module in model.named_modules(remove_duplicate=False) if name and is_smooth(module)]


def swap_to_relu(model: nn.Module, names: Sequence[str]) -> dict[str, nn.Module]:
    """Replace activations by ReLU, in place, and return those that were replaced, by name.

    Args:
        model: the network.
        names: of its GELUs and SiLUs.

    Raises:
        ValueError: a name is that of something else; nothing is replaced then.
    """
    originals = {}
    for name in names:
        try:
            module = model.get_submodule(name)
        except AttributeError:
            raise ValueError(f"swap: {type(model).__name__} has no module {name!r} to replace by a ReLU") from None
        if not is_smooth(module):
            raise ValueError(f"swap: {name!r} is a {type(module).__name__}; a ReLU replaces GELU and SiLU only")
        originals[name] = module
    for name, module in originals.items():
        model.set_submodule(name, nn.ReLU().train(module.training))
    return originals


def swap_back(model: nn.Module, originals: Mapping[str, nn.Module]) -> None:
    """Put activations back that :func:`swap_to_relu` returned, in place."""
    for name, module in originals.items():
        model.set_submodule(name, module)


@contextmanager
def with_relu(model: nn.Module, names: Sequence[str]) -> Iterator[None]:
    """Replace activations by ReLU inside the ``with`` block; those that are ReLUs already stay so.

    Args:
        model: the network.
        names: of activations.
    """
    originals = swap_to_relu(model, [name for name in names if not isinstance(model.get_submodule(name), nn.ReLU)])
    try:
        yield
    finally:
        swap_back(model, originals)
