"""Find the modules after which a network can be left, and how many multiply-adds lie before each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_dynprune.adaptive.base import PREFIX
from lightning_dynprune.adaptive.exits.heads import head_kind
from lightning_dynprune.adaptive.forward_cut import Truncated, called_modules
from lightning_dynprune.base import call_model, name_some
from lightning_dynprune.deploy.measurement import count_macs

# Shares of the multiply-adds near which "auto" places its exits, each dearer than the one before by a factor.
_AUTO_SHARES = (0.05, 0.2, 0.5)
_AUTO_LATEST = 0.8  # a later exit saves too little for a head of its own
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True)
class Cut:
    """A module after which inputs may leave the network.

    Args:
        name: qualified name of the module.
        kind: kind of the head that reads its output.
        features: its output for the example.
        share: multiply-adds up to its end, as a share of the whole network's.
    """

    name: str
    kind: str
    features: Tensor
    share: float


@dataclass(frozen=True)
class Layout:
    """The places where a network can be left.

    Args:
        cuts: in the order in which the forward passes them.
        macs: multiply-adds of the whole network for one sample.
        classes: number of class scores.
    """

    cuts: tuple[Cut, ...]
    macs: int
    classes: int


@torch.no_grad()
def find_layout(model: nn.Module, example: Any, after: Sequence[str] | str, head: str = "auto") -> Layout:
    """Return the modules after which a network can be left.

    Args:
        model: the network, in eval mode.
        example: inputs of at least one sample.
        after: qualified names of modules, or "auto" for up to three, near 5, 20 and 50 % of the multiply-adds.
        head: kind of the heads, or "auto".

    Raises:
        ValueError: the model returns no class scores; a name matches no module, or one that the forward calls several
            times or not at all, or that returns what no head reads; or nothing suits "auto".
    """
    scores = call_model(model, example)
    if not isinstance(scores, Tensor) or scores.dim() not in (2, 3) or not scores.is_floating_point():
        what = f"the shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else f"a {type(scores).__name__}"
        raise ValueError(
            f"the model returns {what}; early exits need one tensor of class scores, (batch, classes), or (batch, "
            "positions, classes) of a token model"
        )
    batch = scores.shape[0]
    macs = count_macs(model, example)
    if macs == 0:
        raise ValueError("the model has no matrix product and no convolution, so there is nothing to save")
    calls = called_modules(model, example)
    names = _auto_names(model, example, scores, calls, macs, head) if isinstance(after, str) else list(after)
    order = [name for name in calls if name in names]
    cuts = []
    for name in names:
        _check_called(model, name, calls)
    for name in order:
        features = calls[name][0]
        kind = head_kind(features, scores, name, _after_convolution(model, calls, name), head)
        cuts.append(Cut(name, kind, features, count_macs(Truncated(model, name), example) / macs))
    return Layout(tuple(cuts), macs // batch, scores.shape[-1])


def _check_called(model: nn.Module, name: str, calls: dict[str, list[Any]]) -> None:
    known = dict(model.named_modules())
    if name not in known or not name:
        raise ValueError(
            f"after={name!r} matches no module; give qualified names, such as {name_some(list(calls), most=4)}"
        )
    if (count := len(calls.get(name, ()))) != 1:
        how = "does not call it" if not count else f"calls it {count} times"
        raise ValueError(f"after={name!r}: the forward {how}; give a module that runs once")


def _auto_names(
    model: nn.Module, example: Any, scores: Tensor, calls: dict[str, list[Any]], macs: int, head: str
) -> list[str]:
    """Return up to three names of modules on the main path, near fixed shares of the multiply-adds."""
    found: dict[float, str] = {}
    order = list(calls)
    for name in sorted(_on_main_path(model), key=lambda name: order.index(name) if name in calls else -1):
        if len(calls.get(name, ())) != 1:
            continue
        try:
            head_kind(calls[name][0], scores, name, _after_convolution(model, calls, name), head)
        except ValueError:
            continue
        share = count_macs(Truncated(model, name), example) / macs
        if 0 < share <= _AUTO_LATEST:
            found[share] = name  # of several at one share the last, which pools or activates
    chosen: list[float] = []
    for wanted in _AUTO_SHARES:
        left = [share for share in found if share not in chosen and share > max(chosen, default=0.0)]
        if left:
            chosen.append(min(left, key=lambda share: abs(share - wanted)))
    if not chosen:
        raise ValueError(
            f"after='auto' finds no module within the first {_AUTO_LATEST:.0%} of the multiply-adds of "
            f"{type(model).__name__} whose output a head reads; name modules in after"
        )
    return [found[share] for share in chosen]


def _on_main_path(model: nn.Module) -> list[str]:
    """Return modules that lie in the model itself or in containers, not inside a block with a forward of its own."""
    names: list[str] = []

    def visit(module: nn.Module, prefix: str) -> None:
        for name, child in module.named_children():
            if prefix == "" and name == PREFIX:
                continue
            names.append(prefix + name)
            if isinstance(child, _CONTAINERS) or _holds_all_parameters(child, module):
                visit(child, f"{prefix}{name}.")

    visit(model, "")
    return names


def _holds_all_parameters(child: nn.Module, parent: nn.Module) -> bool:
    """Return whether a module only wraps a network, as a LightningModule does."""
    own = {id(parameter) for parameter in child.parameters()}
    return len(own) > 0 and all(id(parameter) in own for parameter in parent.parameters())


def _after_convolution(model: nn.Module, calls: dict[str, list[Any]], name: str) -> bool:
    """Return whether a one-dimensional convolution ran before a module's end."""
    order = list(calls)
    before = order[: order.index(name) + 1]
    return any(isinstance(model.get_submodule(other), nn.Conv1d) for other in before)
