"""Early exits: easy inputs leave a network at a small head after one of its layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lightning_dynprune.adaptive.base import METHODS, PREFIX, AdaptiveMethod, Batches
from lightning_dynprune.adaptive.cascade import check_budget
from lightning_dynprune.adaptive.exits.exit_module import EarlyExits
from lightning_dynprune.adaptive.exits.head_fit import FitSettings, collect, fit_head
from lightning_dynprune.adaptive.exits.heads import KINDS, ExitHead, new_head
from lightning_dynprune.adaptive.exits.placement import find_layout
from lightning_dynprune.adaptive.forward_cut import check_stateless
from lightning_dynprune.adaptive.labelled import device_of, first_inputs
from lightning_dynprune.base import check_count, check_real, check_share, check_whole
from lightning_dynprune.distributed import Ranks

FITS = ("frozen", "joint")


@METHODS.register("early_exit")
@dataclass
class EarlyExit(AdaptiveMethod):
    """Small heads after layers of a network, at which the inputs leave that they are sure of.

    Args:
        after: qualified names of modules, or "auto" for up to three, near 5, 20 and 50 % of the multiply-adds.
        fit: "frozen" fits the heads on the trained network; "joint" trains them with it, on the labels alone, which
            changes the network.
        max_drop: largest drop of accuracy on held-out inputs, 0.001 is a tenth of a percentage point.
        margin: standard errors of the drop that are added to it.
        budget: mean multiply-adds as a share of the dense network's; overrides ``max_drop``.
        head: kind of the heads: "auto", "pooled", "vector", "mean_token" or "last_token".
        hidden: units of a head's hidden layer.
        distill: weight of the network's own output among the goals of a head, the rest is that of the labels.
        epochs: passes over the features, with ``fit="frozen"``.
        batch_size: features of one step.
        lr: learning rate of the heads.
        max_samples: largest number of training inputs whose features are kept in memory.
        seed: of the heads' weights and the order of features.

    Raises:
        ValueError: a setting that cannot work.
        TypeError: a setting of the wrong type.

    Example:
        >>> EarlyExit(after=["layers.1"], budget=0.4).budget
        0.4

    Source: Teerapittayanon, McDanel, Kung, BranchyNet, ICPR 2016; Kaya, Hong, Dumitras, Shallow-Deep Networks, ICML
    2019.
    """

    label: ClassVar[str] = "early_exit"

    after: Sequence[str] | str = "auto"
    fit: str = "frozen"
    max_drop: float = 0.001
    margin: float = 1.0
    budget: float | None = None
    head: str = "auto"
    hidden: int = 64
    distill: float = 0.5
    epochs: int = 20
    batch_size: int = 256
    lr: float = 2e-3
    max_samples: int = 60_000
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        _check_after(self.after)
        for setting, value, known in (("fit", self.fit, FITS), ("head", self.head, ("auto", *KINDS))):
            if value not in known:
                raise ValueError(f"{setting}={value!r} is unknown; known: {', '.join(known)}")
        self.max_drop = check_share("max_drop", self.max_drop)
        self.margin = check_real("margin", self.margin, low=0)
        self.budget = None if self.budget is None else check_budget(self.budget)
        self.distill = check_real("distill", self.distill, low=0, high=1)
        self.lr = check_real("lr", self.lr, low=1e-12)
        for setting in ("hidden", "epochs", "batch_size", "max_samples"):
            setattr(self, setting, check_count(setting, getattr(self, setting)))
        self.seed = check_whole("seed", self.seed)

    @property
    def is_joint(self) -> bool:
        """Whether the heads train with the network."""
        return self.fit == "joint"

    def begin_joint(self, model: nn.Module, example: Any) -> EarlyExits:
        """Return exits whose heads will train with the network; those of an earlier training are continued."""
        exits = self.new_exits(model, example)
        self._trained_with(model, exits)
        return exits

    @torch.no_grad()
    def check(self, model: nn.Module, example: Any) -> None:
        """Raise if the model cannot be left early."""
        check_stateless(model, example)
        layout = find_layout(model, example, self.after, self.head)
        cheapest = layout.cuts[0].share
        if self.budget is not None and self.budget < cheapest:
            raise ValueError(
                f"budget={self.budget:g} is out of reach: up to the first exit, after {layout.cuts[0].name!r}, the "
                f"network takes {cheapest:.4f} of its multiply-adds; give more, or an earlier module in after"
            )

    def new_exits(self, model: nn.Module, example: Any) -> EarlyExits:
        """Return exits with untrained heads, which no input takes.

        Args:
            model: the network, in eval mode.
            example: inputs of at least one sample.
        """
        layout = find_layout(model, example, self.after, self.head)
        heads = [
            new_head(cut.kind, cut.features, self.hidden, layout.classes, self.seed + number)
            for number, cut in enumerate(layout.cuts)
        ]
        return EarlyExits([cut.name for cut in layout.cuts], heads, [cut.share for cut in layout.cuts], layout.macs)

    def adapt(self, model: nn.Module, train: Batches, held_out: Batches, ranks: Ranks) -> EarlyExits:
        """Return exits whose heads are fitted on the features of the network, calibrated, with thresholds chosen.

        With ``fit="joint"`` the heads that the model has already, trained with it, are kept where they still fit.
        """
        example = first_inputs(train, device_of(model), "train")
        exits = self.new_exits(model, example).cpu()
        named = dict(zip(exits.cuts, exits.exit_heads, strict=True))
        trained = self._trained_with(model, exits)
        if not trained:
            data = collect(model, named, train, self.max_samples, ranks, "train")
            for number, head in enumerate(exits.exit_heads):
                fit_head(head, data.features[number], data.scores, data.labels, self._fit_settings(number))
        exits.calibrate(collect(model, named, held_out, None, ranks, "held_out"))
        self.choose(exits)
        return exits.to(device_of(model))

    def choose(self, exits: EarlyExits) -> None:
        """Choose the thresholds of calibrated exits as the settings ask."""
        if self.budget is not None:
            exits.budget(self.budget)
        else:
            exits.limit_drop(self.max_drop, self.margin)

    @classmethod
    def build(cls, description: Mapping[str, Any], state: Mapping[str, Tensor], model: nn.Module) -> EarlyExits:
        """Return the exits that a state dict describes."""
        try:
            after, kinds, shares = _read_cuts(description)
            heads = [_head_of(kind, f"heads.{number}", state) for number, kind in enumerate(kinds)]
            exits = EarlyExits(after, heads, shares, check_count("macs", description["macs"]))
            exits.load_values(state)
        except (KeyError, IndexError, TypeError, RuntimeError) as error:
            raise ValueError(f"the state of the exits is damaged: {error}") from error
        return exits

    def _fit_settings(self, number: int) -> FitSettings:
        seed = self.seed + 1000 * (number + 1)
        return FitSettings(self.epochs, self.batch_size, self.lr, distill=self.distill, seed=seed)

    def _trained_with(self, model: nn.Module, exits: EarlyExits) -> bool:
        """Copy the heads that were trained with a model into new exits; return False where they do not fit it."""
        trained = getattr(model, PREFIX, None) if self.fit == "joint" else None
        if not isinstance(trained, EarlyExits) or trained.cuts != exits.cuts:
            return False
        own, theirs = exits.heads.state_dict(), trained.heads.state_dict()
        if {name: each.shape for name, each in own.items()} != {name: each.shape for name, each in theirs.items()}:
            return False  # the network was slimmed, so that the heads read other channels
        exits.heads.load_state_dict(theirs)
        return True


def _read_cuts(description: Mapping[str, Any]) -> tuple[list[str], list[str], list[float]]:
    """Return the names, kinds of heads and shares of the cuts in a description.

    Raises:
        ValueError: they are not of one length, or not names, kinds and shares.
        KeyError: one is missing.
    """
    after, kinds, shares = (description[key] for key in ("after", "kinds", "cut_shares"))
    if not all(isinstance(each, list) and len(each) == len(after) for each in (after, kinds, shares)):
        raise ValueError("the state of the exits is damaged: it has not one name, kind and share a cut")
    if not all(isinstance(name, str) for name in after) or not all(kind in KINDS for kind in kinds):
        raise ValueError(f"the state of the exits is damaged: heads are of the kinds {', '.join(KINDS)}")
    return after, kinds, [check_real("cut_shares", share, low=0, high=1) for share in shares]


def _head_of(kind: str, name: str, state: Mapping[str, Tensor]) -> ExitHead:
    """Return a head of the widths in a state dict, once its tensors agree in them.

    Raises:
        ValueError: they do not; nothing is allocated.
        KeyError: one is missing.
    """
    hidden, output = (state[f"{name}.{layer}.weight"] for layer in ("hidden", "output"))
    if hidden.dim() != 2 or output.dim() != 2 or output.shape[1] != hidden.shape[0]:
        shapes = f"{tuple(hidden.shape)} and {tuple(output.shape)}"
        raise ValueError(f"the state of the exits is damaged: the layers of {name!r} have the shapes {shapes}")
    return ExitHead(kind, hidden.shape[1], hidden.shape[0], output.shape[0])


def _check_after(after: Sequence[str] | str) -> None:
    if isinstance(after, str) and after != "auto":
        raise ValueError(f"after={after!r} is not accepted; give a list of module names, or 'auto'")
    if not isinstance(after, str):
        names = list(after)
        if not names or not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
            raise ValueError(f"after={names!r} is not accepted; give different names of modules, or 'auto'")
