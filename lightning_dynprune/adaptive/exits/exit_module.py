"""The module that early exits add to a network: heads, temperatures and thresholds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_dynprune.adaptive.base import Outcome
from lightning_dynprune.adaptive.cascade import ThresholdedModule, confidence, exits_taken, fit_temperature
from lightning_dynprune.adaptive.exits.head_fit import Reduced, head_scores
from lightning_dynprune.adaptive.exits.heads import ExitHead
from lightning_dynprune.adaptive.exits.running import Decision, ExitRunner, HookRunner
from lightning_dynprune.adaptive.forward_cut import captured, finite_inputs
from lightning_dynprune.adaptive.labelled import last_position
from lightning_dynprune.adaptive.stages import StageError, split_into_stages
from lightning_dynprune.base import call_model


class EarlyExits(ThresholdedModule):
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

    def __init__(self, cuts: Sequence[str], heads: Sequence[ExitHead], cut_shares: Sequence[float], macs: int) -> None:
        kinds, shares = [head.kind for head in heads], [float(share) for share in cut_shares]
        description = {"after": list(cuts), "kinds": kinds, "cut_shares": shares, "macs": macs}
        super().__init__(description, classifiers=len(heads))
        self.cuts, self.cut_shares, self.macs = tuple(cuts), tuple(shares), macs
        self.heads = nn.ModuleList(heads)
        self.why_pieces: str | None = None

    @property
    def path_names(self) -> tuple[str, ...]:
        """Names of the modules after which inputs leave, and ``end``."""
        return (*self.cuts, "end")

    @property
    def exit_heads(self) -> tuple[ExitHead, ...]:
        """The heads, in the order of the forward."""
        return tuple(head for head in self.heads if isinstance(head, ExitHead))

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
        self.keep_held_out(temperatures, found, answers, held_out.labels)

    @contextmanager
    def joint_step(self, model: nn.Module, inputs: Any, labels: Tensor) -> Iterator[Callable[[], Tensor]]:
        """Yield a function that returns the mean loss of the heads on the labels of a training step."""
        with captured(model, self.cuts) as features:

            def loss() -> Tensor:
                each = [self._head_loss(features, cut, head, labels) for cut, head in self._pairs()]
                return torch.stack(each).mean()

            yield loss

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

    def costs_with(self, is_used: Sequence[bool]) -> tuple[float, ...]:
        """Return the multiply-adds of an input that leaves at each exit, and at the end, as dense shares.

        Args:
            is_used: whether an input can leave at each exit; the head of another is not run.
        """
        heads, costs = 0.0, []
        for share, head, used in zip(self.cut_shares, self.exit_heads, is_used, strict=True):
            heads += used * (head.hidden.weight.numel() + head.output.weight.numel()) / self.macs
            costs.append(share + heads)
        return (*costs, 1.0 + heads)

    def _pairs(self) -> Iterator[tuple[str, ExitHead]]:
        return zip(self.cuts, self.exit_heads, strict=True)

    def _head_loss(self, features: Mapping[str, Tensor], cut: str, head: ExitHead, labels: Tensor) -> Tensor:
        if cut not in features:
            raise ValueError(f"after={cut!r}: the training step does not run this module, so its head cannot train")
        scores, wanted = last_position(head(features[cut]), labels[:, -1] if labels.dim() == 2 else labels)
        if len(scores) != len(wanted):
            raise ValueError(
                f"after={cut!r}: the training step ran this module on {len(scores)} inputs last, and the batch has "
                f"{len(wanted)} labels; use fit='frozen', which runs the network by itself"
            )
        return F.cross_entropy(scores.float(), wanted)
