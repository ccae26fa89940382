"""The module that widths add to a network: narrow networks, temperatures and thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lightning_dynprune.adaptive.base import Batches, Outcome
from lightning_dynprune.adaptive.cascade import ThresholdedModule, confidence, exits_taken, fit_temperature
from lightning_dynprune.adaptive.folded_norms import dense_form
from lightning_dynprune.adaptive.forward_cut import finite_inputs
from lightning_dynprune.adaptive.labelled import device_of, labelled_batches, last_position
from lightning_dynprune.adaptive.stages import flat_form
from lightning_dynprune.adaptive.widths.width_running import CascadeRunner, FirstPassRunner, NarrowNetwork
from lightning_dynprune.base import call_model
from lightning_dynprune.distributed import Ranks

DECIDES = ("each", "first")


class PrefixWidths(ThresholdedModule):
    """Narrow copies of a network, the temperatures of their confidence, and the thresholds at which inputs take them.

    Args:
        networks: the narrow networks, narrowest first.
        widths: share of the channels of each.
        shares: multiply-adds of each, as shares of the dense network's.
        decide: "each": every network that runs decides whether the next one does; "first": the narrowest decides which
            network an input takes.

    Attributes:
        networks: the narrow networks, by number.

    Example:
        >>> module = PrefixWidths([nn.Linear(2, 2)], widths=[0.5], shares=[0.25])
        >>> module.costs, module.held_out.costs  # no input takes the narrow network yet
        ((0.25, 1.0), (0.25, 1.25))
    """

    method: ClassVar[str] = "prefix_width"

    def __init__(
        self, networks: Sequence[nn.Module], widths: Sequence[float], shares: Sequence[float], decide: str = "each"
    ) -> None:
        self.widths, self.shares = tuple(map(float, widths)), tuple(map(float, shares))
        self.decide = decide
        description = {"widths": list(self.widths), "shares": list(self.shares), "decide": decide}
        super().__init__(description, classifiers=len(networks))
        self.networks = nn.ModuleList(networks)

    @property
    def path_names(self) -> tuple[str, ...]:
        """Names of the widths, and ``whole``."""
        return (*(f"width {width:g}" for width in self.widths), "whole")

    def costs_with(self, is_used: Sequence[bool]) -> tuple[float, ...]:
        """Return the multiply-adds of an input that takes each network, or the whole one, as dense shares.

        Args:
            is_used: whether an input can take each network.
        """
        if self.decide == "first":
            first = self.shares[0] * any(is_used)
            return (self.shares[0], *(first + share for share in self.shares[1:]), first + 1.0)
        spent, costs = 0.0, []
        for share, used in zip(self.shares, is_used, strict=True):
            costs.append(spent + share)
            spent += used * share
        return (*costs, spent + 1.0)

    @torch.no_grad()
    def calibrate(self, model: nn.Module, held_out: Batches, ranks: Ranks) -> None:
        """Fit the temperatures on held-out inputs, and keep what each network does on them.

        Args:
            model: the whole network, in eval mode.
            held_out: pairs of inputs and labels of this process.
            ranks: the processes.

        Raises:
            ValueError: there are no inputs.
        """
        scores, finite, labels = self._scores(model, held_out, ranks)
        temperatures = [fit_temperature(each, labels) for each in scores[:-1]]
        found = [
            confidence(each, temperature=temperature) + finite
            for each, temperature in zip(scores[:-1], temperatures, strict=True)
        ]
        self.keep_held_out(temperatures, self._decisive(found), [each.argmax(1) for each in scores], labels)

    @torch.no_grad()
    def outcome(self, model: nn.Module, inputs: Any) -> Outcome:
        """Return scores, ways and compute of inputs, by running all networks on all of them."""
        whole, finite = last_position(call_model(model, inputs)), finite_inputs(inputs)
        scores = [
            last_position(call_model(network, inputs)) / temperature
            for network, temperature in zip(self.networks, self.temperatures.tolist(), strict=True)
        ]
        sure = self._decisive([confidence(each) + finite for each in scores])
        ways = exits_taken(torch.stack(sure), self.thresholds.tolist())
        chosen = torch.stack([*scores, whole])[ways, torch.arange(len(ways), device=ways.device)]
        return Outcome(chosen, ways, torch.tensor(self.costs, dtype=torch.float64)[ways.cpu()], whole)

    def runner(self, model: nn.Module, example: Any) -> nn.Module:
        """Return a module in which inputs take the networks that their confidence asks for.

        Args:
            model: the whole network, in eval mode.
            example: inputs of at least one sample.
        """
        values = zip(self.networks, self.temperatures.tolist(), self.thresholds.tolist(), strict=True)
        networks = [
            NarrowNetwork(flat_form(network, example), temperature, threshold, number)
            for number, (network, temperature, threshold) in enumerate(values)
        ]
        used = [network for network in networks if network.threshold < torch.inf]
        whole, end = flat_form(model, example), len(networks)
        if self.decide == "first" and used:
            return FirstPassRunner(networks[0], used, whole, end)
        return CascadeRunner(used, whole, end)

    def for_inference(self, example: Any) -> PrefixWidths:
        """Return this module with its networks in their fastest dense form.

        Args:
            example: inputs of at least one sample.
        """
        for number, network in enumerate(self.networks):
            self.networks[number] = dense_form(network, example)
        return self

    def _decisive(self, found: Sequence[Tensor]) -> list[Tensor]:
        """Return the confidences that decide on each way."""
        return [found[0]] * len(found) if self.decide == "first" else list(found)

    def _scores(self, model: nn.Module, held_out: Batches, ranks: Ranks) -> tuple[list[Tensor], Tensor, Tensor]:
        """Return scores of each network and of the whole one, 0 or NaN for finite inputs, and labels; on the CPU."""
        rows: list[list[Tensor]] = [[] for _ in range(len(self.networks) + 3)]
        with ranks.raise_together():
            for inputs, labels in labelled_batches(held_out, device_of(model), "held_out"):
                whole, labels = last_position(call_model(model, inputs), labels)
                narrow = [last_position(call_model(network, inputs)) for network in self.networks]
                values = [*(each.float() for each in (*narrow, whole)), finite_inputs(inputs).float(), labels]
                for kept, tensor in zip(rows, values, strict=True):
                    kept.append(tensor.cpu())
            if not rows[0]:
                raise ValueError("held_out has no inputs; give batches of inputs and labels")
        own = [torch.cat(kept) for kept in rows]
        if ranks.size > 1:
            gathered = ranks.concat_each([tensor.double().flatten() for tensor in own])
            own = [
                each.view(-1, *tensor.shape[1:]).to(tensor.dtype) for each, tensor in zip(gathered, own, strict=True)
            ]
        return own[:-2], own[-2], own[-1]
