"""Widths: easy inputs take a narrow copy of a network, hard ones the network itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lightning_dynprune.adaptive.base import METHODS, AdaptiveMethod, Batches
from lightning_dynprune.adaptive.cascade import check_budget
from lightning_dynprune.adaptive.distilled_fit import CopyFit, fit_copies
from lightning_dynprune.adaptive.forward_cut import check_stateless
from lightning_dynprune.adaptive.labelled import device_of, first_inputs
from lightning_dynprune.adaptive.widths.narrow_copies import fitted_to, narrow_copies
from lightning_dynprune.adaptive.widths.width_module import DECIDES, PrefixWidths
from lightning_dynprune.base import call_model, check_count, check_real, check_share, check_whole, is_number
from lightning_dynprune.deploy.measurement import count_macs
from lightning_dynprune.distributed import Ranks


@METHODS.register("prefix_width")
@dataclass
class PrefixWidth(AdaptiveMethod):
    """Narrow copies of a network that easy inputs take; the network itself is not changed.

    Each copy has the most important channels of every coupled group, and weights and batch norms of its own, which are
    trained on the labels and on the network's outputs. Widths that share the network's weights, as in slimmable
    networks, would save the memory of the copies, but change the network.

    Args:
        widths: shares of the channels, in (0, 1), increasing.
        decide: "each": every network that runs decides by its confidence whether the next one runs too; "first": the
            narrowest decides which network an input takes.
        max_drop: largest drop of accuracy on held-out inputs, 0.001 is a tenth of a percentage point.
        margin: standard errors of the drop that are added to it.
        budget: mean multiply-adds as a share of the dense network's; overrides ``max_drop``.
        distill: weight of the network's own outputs among the goals of a copy, the rest is that of the labels.
        epochs: passes over the training inputs, by all copies together.
        lr: learning rate of the copies.
        seed: of dropout and of the order in which a data loader draws.

    Raises:
        ValueError: a setting that cannot work.
        TypeError: a setting of the wrong type.

    Example:
        >>> PrefixWidth(widths=[0.5], max_drop=0.002).widths
        (0.5,)

    Source: Yu et al., Slimmable Neural Networks, ICLR 2019; Li et al., Dynamic Slimmable Network, CVPR 2021; two
    networks and a threshold on the smaller one's confidence: Bolukbasi et al., Adaptive Neural Networks for Efficient
    Inference, ICML 2017.
    """

    label: ClassVar[str] = "prefix_width"

    widths: Sequence[float] = (0.25, 0.5)
    decide: str = "each"
    max_drop: float = 0.001
    margin: float = 1.0
    budget: float | None = None
    distill: float = 0.5
    epochs: int = 10
    lr: float = 2e-3
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        self.widths = _checked_widths(self.widths)
        if self.decide not in DECIDES:
            raise ValueError(f"decide={self.decide!r} is unknown; known: {', '.join(DECIDES)}")
        self.max_drop = check_share("max_drop", self.max_drop)
        self.margin = check_real("margin", self.margin, low=0)
        self.budget = None if self.budget is None else check_budget(self.budget)
        self.distill = check_real("distill", self.distill, low=0, high=1)
        self.lr = check_real("lr", self.lr, low=1e-12)
        self.epochs = check_count("epochs", self.epochs)
        self.seed = check_whole("seed", self.seed)

    @torch.no_grad()
    def check(self, model: nn.Module, example: Any) -> None:
        """Raise if the model has no channels to leave out, or the budget is out of reach."""
        check_stateless(model, example)
        widths = self.new_widths(model, example)
        if self.budget is not None and self.budget < widths.shares[0]:
            raise ValueError(
                f"budget={self.budget:g} is out of reach: the network of width {self.widths[0]:g} takes "
                f"{widths.shares[0]:.4f} of the multiply-adds; give more, or a smaller width in widths"
            )

    def new_widths(self, model: nn.Module, example: Any) -> PrefixWidths:
        """Return narrow networks before training, which no input takes.

        Args:
            model: the network, in eval mode.
            example: inputs of at least one sample.

        Raises:
            ValueError: the model returns no class scores, has nothing to save, or no channels to leave out.
        """
        scores = call_model(model, example)
        if not isinstance(scores, Tensor) or scores.dim() not in (2, 3) or not scores.is_floating_point():
            what = f"the shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else f"a {type(scores).__name__}"
            raise ValueError(
                f"the model returns {what}; prefix_width needs one tensor of class scores, (batch, classes), or "
                "(batch, positions, classes) of a token model"
            )
        macs = count_macs(model, example)
        if macs == 0:
            raise ValueError("the model has no matrix product and no convolution, so there is nothing to save")
        copies = narrow_copies(model, example, self.widths)
        return PrefixWidths(copies, self.widths, [count_macs(copy, example) / macs for copy in copies], self.decide)

    def adapt(self, model: nn.Module, train: Batches, held_out: Batches, ranks: Ranks) -> PrefixWidths:
        """Return narrow networks that are trained and calibrated, with thresholds chosen."""
        widths = self.new_widths(model, first_inputs(train, device_of(model), "train"))
        fit_copies(list(widths.networks), model, train, self._copy_fit(), ranks)
        widths.calibrate(model, held_out, ranks)
        if self.budget is not None:
            widths.budget(self.budget)
        else:
            widths.limit_drop(self.max_drop, self.margin)
        return widths.to(device_of(model))

    @classmethod
    def build(cls, description: Mapping[str, Any], state: Mapping[str, Tensor], model: nn.Module) -> PrefixWidths:
        """Return the narrow networks that a state dict describes."""
        try:
            count = len(state["thresholds"])
            numbers = [*description["widths"], *description["shares"]]
            if not all(map(is_number, numbers)) or len(numbers) != 2 * count or description["decide"] not in DECIDES:
                raise ValueError(f"widths {description['widths']!r} with shares {description['shares']!r}")
            networks = []
            for number in range(count):
                start = f"networks.{number}."
                own = {key.removeprefix(start): value for key, value in state.items() if key.startswith(start)}
                networks.append(fitted_to(model, own))
            widths = PrefixWidths(networks, description["widths"], description["shares"], description["decide"])
            widths.load_values(state)
        except (KeyError, IndexError, TypeError, RuntimeError, AttributeError, ValueError) as error:
            raise ValueError(f"the state of the widths is damaged, or of another network: {error}") from error
        return widths

    def _copy_fit(self) -> CopyFit:
        return CopyFit(self.epochs, self.lr, self.distill, self.seed)


def _checked_widths(widths: Sequence[float]) -> tuple[float, ...]:
    """Return widths as numbers in (0, 1), increasing."""
    if isinstance(widths, (str, bytes)) or not isinstance(widths, Sequence) or not widths:
        raise ValueError(f"widths={widths!r} is not accepted; give a list of shares of the channels, such as [0.5]")
    found = tuple(check_real("widths", width, low=0, high=1) for width in widths)
    if found[0] == 0 or found[-1] == 1 or sorted(set(found)) != list(found):
        raise ValueError(f"widths={list(found)} is not accepted; give different shares in (0, 1), increasing")
    return found
