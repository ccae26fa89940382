"""Activation thresholds: inputs of linear layers close to zero are skipped, and their weights never read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_dynprune.adaptive.activations.input_statistics import (
    magnitude_histograms,
    magnitude_quantiles,
    nonzero_shares,
    sampled_rows,
)
from lightning_dynprune.adaptive.activations.layer_densities import LEVELS, output_errors, thresholds_at
from lightning_dynprune.adaptive.activations.linear_layers import LinearLayer, find_layers, weight_rows
from lightning_dynprune.adaptive.activations.relu_swap import SWAPS, find_smooth, with_relu
from lightning_dynprune.adaptive.activations.threshold_module import SHARES, ActivationThresholds, check_density
from lightning_dynprune.adaptive.activations.thresholded_forward import PRECISIONS, thresholded
from lightning_dynprune.adaptive.base import METHODS, PREFIX, AdaptiveMethod, Batches
from lightning_dynprune.adaptive.forward_cut import check_stateless, finite_inputs, part_of
from lightning_dynprune.adaptive.labelled import device_of, first_inputs, labelled_batches, last_position
from lightning_dynprune.base import call_model, check_real, map_tensors
from lightning_dynprune.deploy.measurement import count_macs
from lightning_dynprune.distributed import Ranks

_ROWS = 256  # of a layer's inputs, on which output errors are measured
_HALVINGS = 7  # of the range of shares, when one is searched for a largest loss


@METHODS.register("activation_threshold")
@dataclass
class ActivationThreshold(AdaptiveMethod):
    r"""Thresholds under which inputs of linear layers are skipped.

    .. math:: y = \sum_{j: |x_j| > t} x_j W_j + b

    Nothing is trained. Thresholds are quantiles of the magnitudes on held-out inputs; which layers skip more is decided
    greedily by the error of their outputs on training inputs.

    Args:
        layers: qualified names or patterns with ``*`` of Linear layers and Conv1Ds of transformers; "auto" for all.
        density: share of weight rows that are read, the layers weighted by their multiply-adds; overrides
            ``max_loss_rise``.
        budget: mean multiply-adds as a share of the dense network's; overrides ``max_loss_rise``.
        max_loss_rise: largest rise of the cross-entropy on held-out inputs, as a share of the dense network's.
        swap: "relu" replaces GELU and SiLU modules by ReLU, which has zeros of its own. The network has to be
            fine-tuned so; see :meth:`begin_joint`.
        precision: "int8" admits 8-bit weights where they are measured to be faster; "float32" does not.

    Raises:
        ValueError: a setting that cannot work.
        TypeError: a setting of the wrong type.

    Example:
        >>> ActivationThreshold(density=0.25).density
        0.25

    Source: Liu et al., Training-Free Activation Sparsity in Large Language Models (TEAL), ICLR 2025; Mirzadeh et al.,
    ReLU Strikes Back, ICLR 2024, for the swap.
    """

    label: ClassVar[str] = "activation_threshold"

    layers: Sequence[str] | str = "auto"
    density: float | None = None
    budget: float | None = None
    max_loss_rise: float = 0.01
    swap: str | None = None
    precision: str = "float32"

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        _check_layers(self.layers)
        for setting in ("density", "budget"):
            value = getattr(self, setting)
            setattr(self, setting, None if value is None else check_density(setting, value))
        if self.density is not None and self.budget is not None:
            raise ValueError(
                f"density={self.density:g} and budget={self.budget:g} exclude each other; give one of them"
            )
        self.max_loss_rise = check_real("max_loss_rise", self.max_loss_rise, low=0)
        if self.swap is not None and self.swap not in SWAPS:
            raise ValueError(f"swap={self.swap!r} is unknown; known: {', '.join(SWAPS)}, or none")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision={self.precision!r} is unknown; known: {', '.join(PRECISIONS)}")

    @property
    def is_joint(self) -> bool:
        """Whether the model trains in another form: with its activations replaced."""
        return self.swap is not None

    def begin_joint(self, model: nn.Module, example: Any) -> ActivationThresholds:
        """Return a module without thresholds; added to the model, it replaces the activations by ReLU.

        Call ``place(model, method.begin_joint(model, example))``, fine-tune the model, and then ``adapt`` it.

        Args:
            model: the network, with the module of an earlier training if there was one.
            example: not used.
        """
        return ActivationThresholds([], 0, self.precision, self._swaps(model))

    @torch.no_grad()
    def check(self, model: nn.Module, example: Any) -> None:
        """Raise if the inputs of no layer can be skipped."""
        swaps = self._swaps(model)
        with with_relu(model, swaps):
            check_stateless(model, example)
            find_layers(model, example, self.layers)

    def adapt(self, model: nn.Module, train: Batches, held_out: Batches, ranks: Ranks) -> ActivationThresholds:
        """Return thresholds, calibrated and chosen as the settings ask.

        With ``swap`` all is measured on the network with ReLUs, whether it was fine-tuned so or not.
        """
        example = map_tensors(lambda tensor: tensor[:1], first_inputs(train, device_of(model), "train"))
        swaps = self._swaps(model)
        with with_relu(model, swaps):
            layers = find_layers(model, example, self.layers)
            macs = max(count_macs(model, example), sum(layer.macs for layer in layers))
            module = ActivationThresholds(layers, macs, self.precision, swaps)
            self._calibrate(module, model, train, held_out, ranks)
            self._choose(module, model, held_out, ranks)
        return module.to(device_of(model))

    @classmethod
    def build(
        cls, description: Mapping[str, Any], state: Mapping[str, Tensor], model: nn.Module
    ) -> ActivationThresholds:
        """Return the thresholds that a state dict describes."""
        try:
            layers = [LinearLayer(str(name), *map(int, sizes)) for name, *sizes in description["layers"]]
            module = ActivationThresholds(
                layers,
                int(description["macs"]),
                description["precision"],
                [str(name) for name in description["swapped"]],
            )
            module.load_state_dict(state)
        except (KeyError, ValueError, TypeError, RuntimeError) as error:
            raise ValueError(f"the state of the thresholds is damaged: {error}") from error
        return module

    def _swaps(self, model: nn.Module) -> list[str]:
        """Return the activations to replace; those that an earlier module replaced stay replaced.

        Raises:
            ValueError: there is none.
        """
        if self.swap is None:
            return []
        earlier = getattr(model, PREFIX, None)
        names = list(earlier.swapped) if isinstance(earlier, ActivationThresholds) else []
        names += [name for name in find_smooth(model) if name not in names]
        if not names:
            raise ValueError(
                f"swap={self.swap!r}: {type(model).__name__} has no nn.GELU or nn.SiLU; calls of functions such as "
                "F.gelu cannot be replaced: use modules, or leave swap out"
            )
        return names

    def _calibrate(
        self, module: ActivationThresholds, model: nn.Module, train: Batches, held_out: Batches, ranks: Ranks
    ) -> None:
        """Measure magnitudes on held-out inputs, and output errors on rows of the training inputs."""
        names = module.layer_names
        counts = magnitude_histograms(model, names, held_out, ranks, "held_out")
        module.quantiles, module.natural = magnitude_quantiles(counts), nonzero_shares(counts)
        rows = sampled_rows(model, names, train, _ROWS, ranks, "train")
        for position, name in enumerate(names):
            table = weight_rows(model.get_submodule(name)).cpu()
            levels = module.natural[position] * torch.arange(1, LEVELS + 1, dtype=torch.float64) / LEVELS
            quantiles = module.quantiles[position].expand(LEVELS, -1)
            thresholds = thresholds_at(quantiles, module.natural[position].expand(LEVELS), levels)
            module.errors[position] = output_errors(rows[position], table, thresholds.tolist())
        # The last share skips zeros alone, which leaves all layers as they are.
        module.measured[-1] = module.natural
        for position, share in enumerate(SHARES[:-1]):
            module.set_share(share)
            module.measured[position] = mean_densities(model, module, held_out, ranks)

    def _choose(self, module: ActivationThresholds, model: nn.Module, held_out: Batches, ranks: Ranks) -> None:
        if self.density is not None:
            module.set_density(self.density)
        elif self.budget is not None:
            module.budget(self.budget)
        else:
            self._limit_loss(module, model, held_out, ranks)

    def _limit_loss(self, module: ActivationThresholds, model: nn.Module, held_out: Batches, ranks: Ranks) -> None:
        """Set the lowest share of live inputs whose loss is within the limit, by halving the range of shares.

        Zeros alone change nothing, so that in float32 their density is within any limit.
        """
        limit = (1 + self.max_loss_rise) * mean_loss(model, None, held_out, ranks)
        infeasible, feasible = SHARES[0], SHARES[-1]
        for _ in range(_HALVINGS):
            middle = (infeasible + feasible) / 2
            module.set_share(middle)
            if mean_loss(model, module, held_out, ranks) <= limit:
                feasible = middle
            else:
                infeasible = middle
        module.set_share(feasible)


@torch.no_grad()
def mean_loss(model: nn.Module, module: ActivationThresholds | None, batches: Iterable[Any], ranks: Ranks) -> float:
    """Return the mean cross-entropy over labelled inputs of all processes.

    Inputs whose loss is not finite are left out. Of a token model with a label for each position, it is the mean over
    all positions.

    Args:
        model: the network, in eval mode.
        module: whose thresholds set inputs to zero; None: the dense network.
        batches: pairs of inputs and labels of this process.
        ranks: the processes.
    """
    thresholds, precision = ({}, "float32") if module is None else (module.by_layer, module.precision)
    total = torch.zeros(2, dtype=torch.float64)
    with ranks.raise_together(), thresholded(model, thresholds, precision):
        for inputs, labels in labelled_batches(batches, device_of(model), "held_out"):
            scores = call_model(model, inputs)
            if labels.dim() == scores.dim() - 1 == 2 and labels.shape == scores.shape[:2]:
                scores, labels = scores.flatten(0, 1), labels.flatten()
            scores, labels = last_position(scores, labels)
            losses = F.cross_entropy(scores.float(), labels, reduction="none").double()
            losses = losses[losses.isfinite()]
            total += torch.stack([losses.sum(), losses.new_tensor(float(len(losses)))]).cpu()
    summed, count = ranks.sum(total).tolist()
    return float(summed / max(count, 1))


@torch.no_grad()
def mean_densities(model: nn.Module, module: ActivationThresholds, batches: Iterable[Any], ranks: Ranks) -> Tensor:
    """Return the share of live inputs of each layer while all layers skip theirs, float64 ``(layers,)``.

    Args:
        model: the network, in eval mode.
        module: with the thresholds.
        batches: pairs of inputs and labels of this process.
        ranks: the processes.
    """
    sums = torch.zeros(2, len(module.layers), dtype=torch.float64)
    with ranks.raise_together():
        for inputs, _ in labelled_batches(batches, device_of(model), "held_out"):
            # Calibration leaves out what is not finite, whose inputs are all live.
            finite = finite_inputs(inputs).isfinite()
            with thresholded(model, module.by_layer, module.precision) as rows:
                call_model(model, part_of(inputs, finite))
            each = [torch.cat(rows[name]) for name in module.layer_names]
            sums += torch.stack(
                [torch.stack([shares.sum(), shares.new_tensor(len(shares))]) for shares in each], 1
            ).cpu()
    sums = ranks.sum(sums)
    return sums[0] / sums[1].clamp(min=1)


def _check_layers(layers: Sequence[str] | str) -> None:
    if isinstance(layers, str) and layers != "auto":
        raise ValueError(f"layers={layers!r} is not accepted; give a list of module names, or 'auto'")
    if not isinstance(layers, str):
        names = list(layers)
        if not names or not all(isinstance(name, str) for name in names):
            raise ValueError(f"layers={names!r} is not accepted; give names of modules, or 'auto'")
