"""The module that early exits add to a network: heads, temperatures and thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lightning_dynprune.adaptive.base import AdaptiveModule, Outcome
from lightning_dynprune.adaptive.exits.head_confidence import calibration_error, confidence, fit_temperature
from lightning_dynprune.adaptive.exits.head_fit import Reduced, head_scores
from lightning_dynprune.adaptive.exits.heads import ExitHead
from lightning_dynprune.adaptive.exits.running import Decision, ExitRunner, HookRunner, finite_inputs
from lightning_dynprune.adaptive.exits.threshold_search import (
    Chosen,
    HeldOut,
    exits_taken,
    for_budget,
    for_largest_drop,
    judge,
)
from lightning_dynprune.adaptive.forward_cut import captured
from lightning_dynprune.adaptive.labelled import last_position
from lightning_dynprune.adaptive.stages import StageError, split_into_stages
from lightning_dynprune.base import call_model, check_real, check_share


class EarlyExits(AdaptiveModule):
    """The heads of a network, the temperatures of their confidence, and the thresholds at which inputs leave.

    Args:
        cuts: names of the modules after which inputs may leave.
        heads: one a cut.
        cut_shares: multiply-adds up to each cut, as shares of the dense network's.
        macs: multiply-adds of the dense network for one sample.

    Attributes:
        heads: the heads, by number.
        temperatures: one a head, float64; the head's last layer is divided by it already.
        thresholds: least confidence at which each exit is taken, float64; inf: never.
        errors: expected calibration error of each head on the held-out inputs, with its temperature.
        why_pieces: why the last :meth:`runner` could not split the forward into stages; None if it could.

    Example:
        >>> exits = EarlyExits(["0"], [ExitHead("vector", 4, 8, 2)], [0.5], macs=960)
        >>> exits.costs, exits.held_out.costs  # no input takes the exit yet; 48 multiply-adds of the head are 5 %
        ((0.5, 1.0), (0.55, 1.05))
    """

    method: ClassVar[str] = "early_exit"
    temperatures: Tensor
    thresholds: Tensor
    held_out_confidences: Tensor
    held_out_correct: Tensor

    def __init__(self, cuts: Sequence[str], heads: Sequence[ExitHead], cut_shares: Sequence[float], macs: int) -> None:
        kinds, shares = [head.kind for head in heads], [float(share) for share in cut_shares]
        super().__init__({"after": list(cuts), "kinds": kinds, "cut_shares": shares, "macs": macs})
        self.cuts, self.cut_shares, self.macs = tuple(cuts), tuple(shares), macs
        self.heads = nn.ModuleList(heads)
        self.register_buffer("temperatures", torch.ones(len(heads), dtype=torch.float64))
        self.register_buffer("thresholds", torch.full((len(heads),), torch.inf, dtype=torch.float64))
        # Of the held-out inputs, so that thresholds can be chosen again after the module was loaded.
        self.register_buffer("held_out_confidences", torch.zeros(len(heads), 0, dtype=torch.float64))
        self.register_buffer("held_out_correct", torch.zeros(len(heads) + 1, 0, dtype=torch.bool))
        self.errors: tuple[float, ...] = ()
        self.why_pieces: str | None = None

    @property
    def path_names(self) -> tuple[str, ...]:
        """Names of the modules after which inputs leave, and ``end``."""
        return (*self.cuts, "end")

    @property
    def exit_heads(self) -> tuple[ExitHead, ...]:
        """The heads, in the order of the forward."""
        return tuple(head for head in self.heads if isinstance(head, ExitHead))

    @property
    def costs(self) -> tuple[float, ...]:
        """Multiply-adds of an input that leaves at each exit, and at the end, as shares of the dense network's.

        The head of an exit whose threshold is inf is never run.
        """
        return self._costs(self.thresholds.isfinite().tolist())

    @property
    def held_out(self) -> HeldOut:
        """The confidences and answers on the held-out inputs, with the costs of all heads."""
        correct = self.held_out_correct.cpu()
        return HeldOut(self.held_out_confidences.cpu(), correct[:-1], correct[-1], self._costs([True] * len(self.cuts)))

    @property
    def chosen(self) -> Chosen:
        """The compute and the drop that the present thresholds give on the held-out inputs."""
        return judge(replace(self.held_out, costs=self.costs), self.thresholds.tolist())

    def calibrate(self, held_out: Reduced) -> None:
        """Fit the temperatures on held-out inputs, and keep what each exit does on them.

        The weights of a head's last layer are divided by its temperature, so that its scores are calibrated.

        Args:
            held_out: as the heads read them.
        """
        temperatures = [
            fit_temperature(each, held_out.labels) for each in head_scores(self.exit_heads, held_out.features)
        ]
        with torch.no_grad():
            for head, temperature in zip(self.exit_heads, temperatures, strict=True):
                head.output.weight.div_(temperature)
                head.output.bias.div_(temperature)
        scores = head_scores(self.exit_heads, held_out.features)
        found = [confidence(each, read) for each, read in zip(scores, held_out.features, strict=True)]
        answers = [*(each.argmax(1) for each in scores), held_out.scores.argmax(1)]
        correct = torch.stack([answer == held_out.labels for answer in answers])
        self.temperatures = torch.tensor(temperatures, dtype=torch.float64)
        self.held_out_confidences, self.held_out_correct = torch.stack(found).double(), correct
        self.errors = tuple(
            calibration_error(each[each.isfinite()], right[each.isfinite()])
            for each, right in zip(found, correct[:-1], strict=True)
        )

    def budget(self, share: float) -> None:
        """Choose thresholds on the held-out inputs for a mean compute, to 2 %.

        Args:
            share: mean multiply-adds as a share of the dense network's, in (0, 1].

        Raises:
            ValueError: the share is out of range or out of reach; the message says what is reachable.
        """
        self._set(for_budget(self._calibrated("budget"), check_budget(share)))

    def limit_drop(self, max_drop: float, margin: float = 1.0) -> None:
        """Choose the cheapest thresholds on the held-out inputs within a drop of accuracy.

        Args:
            max_drop: largest drop of accuracy, in [0, 1).
            margin: standard errors of the drop that are added to it.
        """
        limit, errors = check_share("max_drop", max_drop), check_real("margin", margin, low=0)
        self._set(for_largest_drop(self._calibrated("max_drop"), limit, errors))

    @torch.no_grad()
    def outcome(self, model: nn.Module, inputs: Any) -> Outcome:
        """Return scores, exits and compute of inputs, by one forward of the whole network."""
        with captured(model, self.cuts) as features:
            final = last_position(call_model(model, inputs))
        finite = finite_inputs(inputs)
        scores, sure = [], []
        for cut, head in zip(self.cuts, self.exit_heads, strict=True):
            reduced = head.reduce(features[cut])
            scores.append(head.classify(reduced))
            sure.append(confidence(scores[-1], reduced) + finite)
        exits = exits_taken(torch.stack(sure), self.thresholds.tolist())
        each = torch.stack([*scores, final.to(scores[0].dtype)])
        chosen = each[exits, torch.arange(len(exits), device=exits.device)]
        return Outcome(chosen, exits, torch.tensor(self.costs, dtype=torch.float64)[exits.cpu()], final)

    def runner(self, model: nn.Module, example: Any) -> ExitRunner | HookRunner:
        """Return a module in which inputs leave at their exits: by stages where torch.fx can split the forward.

        Args:
            model: the network, in eval mode.
            example: inputs of at least one sample, on which the stages are checked.
        """
        settings = enumerate(zip(self.exit_heads, self.thresholds.tolist(), strict=True))
        used = {number: Decision(head, threshold) for number, (head, threshold) in settings if threshold < torch.inf}
        cuts, decisions, numbers = [self.cuts[n] for n in used], list(used.values()), [*used, len(self.cuts)]
        self.why_pieces = None
        try:
            return ExitRunner(model, example, split_into_stages(model, cuts, example), decisions, numbers)
        except StageError as error:
            self.why_pieces = str(error)
            return HookRunner(model, cuts, decisions, numbers)

    def _costs(self, is_used: Sequence[bool]) -> tuple[float, ...]:
        heads, costs = 0.0, []
        for share, head, used in zip(self.cut_shares, self.exit_heads, is_used, strict=True):
            heads += used * (head.hidden.weight.numel() + head.output.weight.numel()) / self.macs
            costs.append(share + heads)
        return (*costs, 1.0 + heads)

    def _calibrated(self, setting: str) -> HeldOut:
        if not self.held_out.count:
            raise ValueError(f"{setting}: no held-out inputs are known; calibrate with some first")
        return self.held_out

    def _set(self, chosen: Chosen) -> None:
        thresholds = torch.tensor(chosen.thresholds, dtype=torch.float64)
        self.thresholds = thresholds.to(self.thresholds.device)


def check_budget(share: Any) -> float:
    """Return a budget as float if it is a number in (0, 1].

    Raises:
        TypeError: it is no number.
        ValueError: it is out of range.
    """
    budget = check_real("budget", share, low=0, high=1)
    if budget == 0:
        raise ValueError("budget=0 is not accepted; give a share of the multiply-adds in (0, 1]")
    return budget
