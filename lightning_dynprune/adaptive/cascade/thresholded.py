"""The base class of modules in which confidences are compared with thresholds that held-out inputs give."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from lightning_dynprune.adaptive.base import AdaptiveModule
from lightning_dynprune.adaptive.cascade.confidence_calibration import calibration_error
from lightning_dynprune.adaptive.cascade.threshold_search import (
    BUDGET_BAND,
    Chosen,
    HeldOut,
    for_budget,
    for_largest_drop,
    judge,
)
from lightning_dynprune.base import check_real, check_share

_ALL_SETS = 3  # classifiers, of which all sets are tried


class ThresholdedModule(AdaptiveModule):
    """Base class of modules in which each input takes the first classifier that is confident, or the whole network.

    Args:
        description: the settings.
        classifiers: number of classifiers beside the whole network.

    Attributes:
        temperatures: one a classifier, float64.
        thresholds: least confidence at which each classifier is taken, float64; inf: never.
        errors: expected calibration error of each classifier on the held-out inputs, with its temperature.
    """

    temperatures: Tensor
    thresholds: Tensor
    held_out_confidences: Tensor
    held_out_correct: Tensor

    def __init__(self, description: Mapping[str, Any], classifiers: int) -> None:
        super().__init__(description)
        self.register_buffer("temperatures", torch.ones(classifiers, dtype=torch.float64))
        self.register_buffer("thresholds", torch.full((classifiers,), torch.inf, dtype=torch.float64))
        # Of the held-out inputs, so that thresholds can be chosen again after the module was loaded.
        self.register_buffer("held_out_confidences", torch.zeros(classifiers, 0, dtype=torch.float64))
        self.register_buffer("held_out_correct", torch.zeros(classifiers + 1, 0, dtype=torch.bool))
        self.errors: tuple[float, ...] = ()

    @abstractmethod
    def costs_with(self, is_used: Sequence[bool]) -> tuple[float, ...]:
        """Return the multiply-adds of an input that takes each classifier, or the whole network, as dense shares.

        Args:
            is_used: whether an input can take each classifier; one that none can take is not run.
        """

    @property
    def costs(self) -> tuple[float, ...]:
        """Multiply-adds of an input that takes each classifier, or the whole network, as shares of the dense network's.

        A classifier whose threshold is inf is never run.
        """
        return self.costs_with(self.thresholds.isfinite().tolist())

    @property
    def held_out(self) -> HeldOut:
        """The confidences and answers on the held-out inputs, with the costs of all classifiers."""
        correct = self.held_out_correct.cpu()
        costs = self.costs_with([True] * len(self.thresholds))
        return HeldOut(self.held_out_confidences.cpu(), correct[:-1], correct[-1], costs)

    @property
    def chosen(self) -> Chosen:
        """The compute and the drop that the present thresholds give on the held-out inputs."""
        return judge(replace(self.held_out, costs=self.costs), self.thresholds.tolist())

    @property
    def summary(self) -> str:
        """The ways with their thresholds, and what they give on the held-out inputs."""
        if not self.held_out.count:
            return f"{self.method} by {', '.join(self.path_names)}, not calibrated"
        thresholds = zip(self.path_names, self.thresholds.tolist(), strict=False)
        used = [f"{name} from {threshold:.3f}" for name, threshold in thresholds if threshold < torch.inf]
        found = self.chosen
        return (
            f"{self.method} at {', '.join(used) or 'no place'}; on {self.held_out.count} held-out inputs "
            f"{found.compute:.3f} of the multiply-adds, accuracy {-found.drop:+.4f} (standard error {found.error:.4f})"
        )

    def budget(self, share: float) -> None:
        """Choose thresholds on the held-out inputs for a mean compute, to 2 %.

        Args:
            share: mean multiply-adds as a share of the dense network's, in (0, 1].

        Raises:
            ValueError: the share is out of range or out of reach; the message says what is reachable.
        """
        budget, full = check_budget(share), self._calibrated("budget")
        if budget < full.costs[0]:
            for_budget(full, budget)  # which raises
        self._set(max(self._candidates(partial(_in_budget, budget=budget)), key=partial(_worth, budget=budget)))

    def limit_drop(self, max_drop: float, margin: float = 1.0) -> None:
        """Choose the cheapest thresholds on the held-out inputs within a drop of accuracy.

        Args:
            max_drop: largest drop of accuracy, in [0, 1).
            margin: standard errors of the drop that are added to it.
        """
        limit, errors = check_share("max_drop", max_drop), check_real("margin", margin, low=0)
        self._calibrated("max_drop")
        search = partial(for_largest_drop, max_drop=limit, margin=errors)
        self._set(min(self._candidates(search), key=lambda chosen: (chosen.compute, chosen.drop)))

    def keep_held_out(
        self, temperatures: Sequence[float], found: Sequence[Tensor], answers: Sequence[Tensor], labels: Tensor
    ) -> None:
        """Keep what the classifiers do on held-out inputs.

        Args:
            temperatures: one a classifier.
            found: confidences of each classifier, with its temperature, ``(n,)``.
            answers: classes that each classifier and the whole network answer, int64 ``(n,)``.
            labels: the right classes, int64 ``(n,)``.
        """
        correct = torch.stack([answer == labels for answer in answers])
        self.temperatures = torch.tensor(temperatures, dtype=torch.float64)
        self.held_out_confidences, self.held_out_correct = torch.stack(list(found)).double(), correct
        self.errors = tuple(
            calibration_error(each[each.isfinite()], right[each.isfinite()])
            for each, right in zip(found, correct[:-1], strict=True)
        )

    def load_values(self, state: Mapping[str, Tensor]) -> None:
        """Take the values of a state dict of this module, whatever number of held-out inputs it was calibrated on."""
        for name in ("held_out_confidences", "held_out_correct"):
            self.register_buffer(name, torch.empty_like(state[name]))
        self.load_state_dict(dict(state))

    def _calibrated(self, setting: str) -> HeldOut:
        if not self.held_out.count:
            raise ValueError(f"{setting}: no held-out inputs are known; calibrate with some first")
        return self.held_out

    def _candidates(self, search: Callable[[HeldOut], Chosen | None]) -> list[Chosen]:
        """Return what a search finds for different sets of classifiers in use, as a classifier not in use is not run.

        All sets are tried of up to three classifiers; of more, all together and all but one.
        """
        full, count = self._calibrated("thresholds"), len(self.thresholds)
        sizes = range(1, count + 1) if count <= _ALL_SETS else range(count - 1, count + 1)
        found = []
        for used in (used for size in sizes for used in combinations(range(count), size)):
            costs = self.costs_with([number in used for number in range(count)])
            rows = list(used)
            part = HeldOut(
                full.confidences[rows], full.correct[rows], full.final_correct, (*(costs[n] for n in used), costs[-1])
            )
            if (chosen := search(part)) is not None:
                thresholds = [math.inf] * count
                for number, threshold in zip(used, chosen.thresholds, strict=True):
                    thresholds[number] = threshold
                is_used = [threshold < math.inf for threshold in thresholds]
                found.append(judge(replace(full, costs=self.costs_with(is_used)), thresholds))
        return found

    def _set(self, chosen: Chosen) -> None:
        thresholds = torch.tensor(chosen.thresholds, dtype=torch.float64)
        self.thresholds = thresholds.to(self.thresholds.device)


def _in_budget(held_out: HeldOut, budget: float) -> Chosen | None:
    return for_budget(held_out, budget) if held_out.costs[0] <= budget else None


def _worth(chosen: Chosen, budget: float) -> tuple[float, float, float]:
    """Return what makes thresholds better: compute up to the band of the budget, then accuracy, then less compute."""
    return min(chosen.compute, (1 - BUDGET_BAND) * budget), -chosen.drop, -chosen.compute


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
