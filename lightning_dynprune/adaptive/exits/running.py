"""Run a network so that inputs leave it at the first exit that is confident; the rest of the forward is not run."""

from __future__ import annotations

import math
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

    def forward(self, features: Tensor, finite: Tensor) -> tuple[Tensor, Tensor]:
        """Return the head's scores and which inputs leave, bool ``(n,)``.

        Args:
            features: output of the cut's module.
            finite: 0 for each input that holds only finite numbers, else NaN.
        """
        reduced = self.head.reduce(features)
        scores = self.head.classify(reduced)
        return scores, confidence(scores, reduced) + finite >= self.threshold

    def decide_one(self, features: Tensor) -> tuple[Tensor, bool]:
        """Return the scores of one input and whether it leaves, in fewer operations than :meth:`forward`.

        Args:
            features: output of the cut's module, of an input that holds only finite numbers.
        """
        reduced = self.head.reduce(features)
        scores = self.head.classify(reduced)
        sure = float(F.softmax(scores.float(), dim=1).amax())
        return scores, sure >= self.threshold and math.isfinite(float(reduced.sum()))


class ExitRunner(nn.Module):
    """Runs the stages of a network; inputs that are confident at an exit leave the batch there.

    Args:
        model: the network, of which the stages were made.
        example: inputs, given as the stages were split with.
        stages: one more than decisions.
        decisions: one a cut.
        numbers: number of each decision's exit, and of the end, as ``exits`` reports them.

    Attributes:
        exits: exit that each input of the last call took, int64 ``(n,)``.
    """

    exits: Tensor

    def __init__(
        self,
        model: nn.Module,
        example: Any,
        stages: Sequence[Stage],
        decisions: Sequence[Decision],
        numbers: Sequence[int],
    ) -> None:
        super().__init__()
        self.names = list(split_arguments(example)[1])
        self.numbers = list(numbers)
        # Not registered: the stages hold its modules, and its own name would double their keys.
        self._model = [model]
        self.stages = nn.ModuleList(stage.module for stage in stages)
        self.decisions = nn.ModuleList(decisions)
        self.has_batch = [stage.has_batch for stage in stages]
        # Looking modules up by name takes as long as a small layer.
        self._steps = list(zip([stage.module for stage in stages], decisions, self.numbers, strict=False))
        self.exits = torch.zeros(0, dtype=torch.int64)

    @torch.no_grad()
    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the class scores of each input, ``(n, classes)``, from the exit it took or from the end."""
        inputs = {name: kwargs[name] for name in self.names} if kwargs else args
        count = batch_of(inputs)
        if not count:
            self.exits = torch.zeros(0, dtype=torch.int64)
            empty: Tensor = last_position(call_model(self._model[0], inputs))
            return empty
        values = stage_inputs(inputs)
        if count == 1:
            return self._run_one(values)
        finite = finite_inputs(inputs)
        left = torch.arange(count, device=finite.device)
        self.exits = torch.full((count,), self.numbers[-1], device=finite.device)
        found: Tensor | None = None
        for number, decision in enumerate(self.decisions):
            values = self.stages[number](*values)
            scores, leaves = decision(values[0], finite)
            found = scores.new_zeros(count, scores.shape[1]) if found is None else found
            if not leaves.any():
                continue
            found[left[leaves]] = scores[leaves]
            self.exits[left[leaves]] = self.numbers[number]
            stays = (~leaves).nonzero()[:, 0]
            if not len(stays):
                break
            left, finite = left[stays], finite[stays]
            values = without_inputs(values, self.has_batch[number], stays)
        else:
            final: Tensor = last_position(self.stages[-1](*values))
            if found is None or len(left) == count:
                return final
            found[left] = final.to(found.dtype)
        return found

    def _run_one(self, values: tuple[Any, ...]) -> Tensor:
        """Run one input, without the bookkeeping of a batch."""
        is_finite = all(
            math.isfinite(float(value.sum())) for value in values if value.is_floating_point() and value.dim() > 1
        )
        for stage, decision, number in self._steps:
            values = stage(*values)
            if is_finite:
                found, leaves = decision.decide_one(values[0])
                if leaves:
                    self.exits = torch.tensor([number])
                    return found
        self.exits = torch.tensor([self.numbers[-1]])
        scores: Tensor = last_position(self.stages[-1](*values))
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
