"""Run a network so that inputs leave it at the first exit that is confident; the rest of the forward is not run."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_dynprune.adaptive.cascade import confidence
from lightning_dynprune.adaptive.exits.heads import ExitHead
from lightning_dynprune.adaptive.forward_cut import ForwardEnded, batch_of, finite_inputs, part_of
from lightning_dynprune.adaptive.labelled import last_position
from lightning_dynprune.adaptive.stages import Stage, stage_inputs, without_inputs
from lightning_dynprune.base import call_model, split_arguments


class Decision(nn.Module):
    """Decides by the features of one cut which inputs leave there.

    Args:
        head: of the cut, calibrated.
        threshold: least confidence that leaves.
    """

    def __init__(self, head: ExitHead, threshold: float) -> None:
        super().__init__()
        self.head, self.threshold = head, threshold
        # In a list, as looking a parameter up by its module's name takes as long as reading it.
        self._layers = [(each.weight, each.bias) for each in (head.hidden, head.output)]

    def forward(self, features: Tensor, finite: Tensor) -> tuple[Tensor, Tensor]:
        """Return the head's scores and which inputs leave, bool ``(n,)``.

        Args:
            features: output of the cut's module.
            finite: 0 for each input that holds only finite numbers, else NaN.
        """
        scores, sure = self.judge(features)
        return scores, sure + finite >= self.threshold

    def judge(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the head's scores, and how sure they are, ``(n,)``; NaN where a feature is not finite.

        Args:
            features: output of the cut's module.
        """
        reduced = self.head.reduce(features)
        scores = self.head.classify(reduced)
        return scores, confidence(scores, reduced)

    def decide_one(self, features: Tensor) -> tuple[Tensor, float]:
        """Return the scores of one input and how sure they are, in fewer operations than :meth:`forward`.

        Args:
            features: output of the cut's module, of an input that holds only finite numbers.

        Returns:
            The scores, and the confidence; NaN where a feature is not finite.
        """
        reduced = self.head.reduce(features)
        first, last = self._layers
        scores = F.linear(F.linear(reduced, *first).relu_(), *last)
        sure = float(F.softmax(scores.float(), dim=1).amax())
        return scores, sure if math.isfinite(float(reduced.sum())) else math.nan


class StagedRunner(nn.Module, ABC):
    """Base class of networks in stages; inputs that are confident at an exit leave the batch there.

    Args:
        names: of the keyword arguments that the network is called with, in order; empty for positional ones.
        thresholds: least confidence that leaves, one an exit.
        numbers: number of each exit, and of the end, as ``exits`` reports them.

    Attributes:
        exits: exit that each input of the last call took, int64 ``(n,)``.
    """

    exits: Tensor

    def __init__(self, names: Sequence[str], thresholds: Sequence[float], numbers: Sequence[int]) -> None:
        super().__init__()
        self.names, self.thresholds, self.numbers = list(names), list(thresholds), list(numbers)
        self.exits = torch.zeros(0, dtype=torch.int64)

    @abstractmethod
    def run_exit(self, number: int, values: Sequence[Any]) -> tuple[Tensor, Tensor, Sequence[Any]]:
        """Return the scores and the confidences of a batch at an exit, and the values that cross its cut.

        Args:
            number: position of the exit among those in use.
            values: that crossed the cut before, or the inputs.
        """

    @abstractmethod
    def run_exit_alone(self, number: int, values: Sequence[Any]) -> tuple[Tensor, float, Sequence[Any]]:
        """Return the same of one input, with its confidence as a number."""

    @abstractmethod
    def run_end(self, values: Sequence[Any]) -> Tensor:
        """Return the scores of a batch at the end of the network, ``(n, classes)``."""

    @abstractmethod
    def run_none(self, inputs: Any) -> Tensor:
        """Return the scores of an empty batch, ``(0, classes)``."""

    @abstractmethod
    def keep(self, number: int, values: Sequence[Any], kept: Tensor) -> Sequence[Any]:
        """Return the values that cross an exit's cut for some of the inputs.

        Args:
            number: position of the exit among those in use.
            values: that cross its cut.
            kept: indices of the inputs that go on.
        """

    @torch.no_grad()
    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the class scores of each input, ``(n, classes)``, from the exit it took or from the end."""
        inputs = {name: kwargs[name] for name in self.names} if kwargs else args
        count = batch_of(inputs)
        if not count:
            self.exits = torch.zeros(0, dtype=torch.int64)
            return self.run_none(inputs)
        values: Sequence[Any] = stage_inputs(inputs)
        if count == 1:
            return self._run_one(values)
        finite = finite_inputs(inputs)
        left = torch.arange(count, device=finite.device)
        self.exits = torch.full((count,), self.numbers[-1], device=finite.device)
        found: Tensor | None = None
        for number, threshold in enumerate(self.thresholds):
            scores, sure, values = self.run_exit(number, values)
            leaves = sure + finite >= threshold
            found = scores.new_zeros(count, scores.shape[1]) if found is None else found
            if not leaves.any():
                continue
            found[left[leaves]] = scores[leaves]
            self.exits[left[leaves]] = self.numbers[number]
            stays = (~leaves).nonzero()[:, 0]
            if not len(stays):
                break
            left, finite = left[stays], finite[stays]
            values = self.keep(number, values, stays)
        else:
            final = self.run_end(values)
            if found is None or len(left) == count:
                return final
            found[left] = final.to(found.dtype)
        return found

    def _run_one(self, values: Sequence[Any]) -> Tensor:
        """Run one input, without the bookkeeping of a batch."""
        is_finite = True
        for value in values:
            if value.is_floating_point() and value.dim() > 1:
                is_finite = is_finite and math.isfinite(float(value.sum()))
        for number, threshold in enumerate(self.thresholds):
            found, sure, values = self.run_exit_alone(number, values)
            if is_finite and sure >= threshold:
                self.exits = torch.tensor([self.numbers[number]])
                return found
        self.exits = torch.tensor([self.numbers[-1]])
        return self.run_end(values)


class ExitRunner(StagedRunner):
    """Runs the stages of a network in torch.

    Args:
        model: the network, of which the stages were made.
        example: inputs, given as the stages were split with.
        stages: one more than decisions.
        decisions: one a cut.
        numbers: number of each decision's exit, and of the end.
    """

    def __init__(
        self,
        model: nn.Module,
        example: Any,
        stages: Sequence[Stage],
        decisions: Sequence[Decision],
        numbers: Sequence[int],
    ) -> None:
        names, thresholds = list(split_arguments(example)[1]), [decision.threshold for decision in decisions]
        super().__init__(names, thresholds, numbers)
        self.crossing = [stage.crossing for stage in stages]
        # Not registered: the stages hold its modules, and its own name would double their keys.
        self._model = [model]
        self.stages = nn.ModuleList(stage.module for stage in stages)
        self.decisions = nn.ModuleList(decisions)
        # Looking modules up by name takes as long as a small layer, and so does calling one with its hooks.
        self._steps = list(zip([stage.module.forward for stage in stages], decisions, strict=False))
        self._last = [stages[-1].module]

    def run_exit(self, number: int, values: Sequence[Any]) -> tuple[Tensor, Tensor, Sequence[Any]]:
        """Run a stage and its head on a batch."""
        stage, decision = self._steps[number]
        values = stage(*values)
        return (*decision.judge(values[0]), values)

    def run_exit_alone(self, number: int, values: Sequence[Any]) -> tuple[Tensor, float, Sequence[Any]]:
        """Run a stage and its head on one input."""
        stage, decision = self._steps[number]
        values = stage(*values)
        return (*decision.decide_one(values[0]), values)

    def run_end(self, values: Sequence[Any]) -> Tensor:
        """Run the last stage."""
        scores: Tensor = last_position(self._last[0](*values))
        return scores

    def keep(self, number: int, values: Sequence[Any], kept: Tensor) -> Sequence[Any]:
        """Take inputs out of the values."""
        return without_inputs(values, self.crossing[number], kept)

    def run_none(self, inputs: Any) -> Tensor:
        """Run the network on the empty batch."""
        scores: Tensor = last_position(call_model(self._model[0], inputs))
        return scores


class HookRunner(nn.Module):
    """Runs a network that cannot be split, and ends its forward by an exception as soon as all inputs are confident.

    What else the forward holds of an input is unknown, so no input can leave a batch: a batch is run in pieces, by
    default of one input.

    Args:
        model: the network.
        cuts: names of the modules of the exits, in the order of the forward.
        decisions: one a cut.
        numbers: as of :class:`ExitRunner`.
        piece: number of inputs that run together.

    Attributes:
        exits: as of :class:`ExitRunner`.
    """

    exits: Tensor

    def __init__(
        self,
        model: nn.Module,
        cuts: Sequence[str],
        decisions: Sequence[Decision],
        numbers: Sequence[int],
        piece: int = 1,
    ) -> None:
        super().__init__()
        self.numbers = list(numbers)
        self.model, self.cuts, self.piece = model, list(cuts), piece
        self.decisions = nn.ModuleList(decisions)
        self.exits = torch.zeros(0, dtype=torch.int64)

    @torch.no_grad()
    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the class scores of each input, ``(n, classes)``, from the exit it took or from the end."""
        inputs = kwargs or args
        count = batch_of(inputs)
        if not count:
            self.exits = torch.zeros(0, dtype=torch.int64)
            empty: Tensor = last_position(call_model(self.model, inputs))
            return empty
        found, taken = [], []
        for start in range(0, count, self.piece):
            scores, exits = self._run_piece(part_of(inputs, slice(start, start + self.piece)))
            found.append(scores)
            taken.append(exits)
        self.exits = torch.tensor(self.numbers, device=taken[0].device)[torch.cat(taken)]
        return torch.cat(found)

    def _run_piece(self, inputs: Any) -> tuple[Tensor, Tensor]:
        finite = finite_inputs(inputs)
        exits = torch.full((len(finite),), len(self.decisions), device=finite.device)
        kept: list[Tensor] = []

        def hook(number: int) -> Any:
            def decide(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
                scores, leaves = self.decisions[number](output, finite)
                new = leaves & (exits == len(self.decisions))
                kept.append(scores if not kept else torch.where(new[:, None], scores, kept[-1]))
                exits.masked_fill_(new, number)
                if (exits < len(self.decisions)).all():
                    raise ForwardEnded

            return decide

        hooks = [self.model.get_submodule(cut).register_forward_hook(hook(n)) for n, cut in enumerate(self.cuts)]
        try:
            scores = last_position(call_model(self.model, inputs))
        except ForwardEnded:
            return kept[-1], exits
        finally:
            for handle in hooks:
                handle.remove()
        is_at_end = exits == len(self.decisions)
        return (torch.where(is_at_end[:, None], scores, kept[-1]) if kept else scores), exits
