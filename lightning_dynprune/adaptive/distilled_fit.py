"""Train copies of a network, such as narrower ones, on labels and on the outputs of the network itself."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence, Sized
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_dynprune.adaptive.base import PREFIX, AdaptiveModule, Batches
from lightning_dynprune.adaptive.labelled import device_of, labelled_batches, last_position
from lightning_dynprune.base import BATCH_NORMS, call_model, map_tensors
from lightning_dynprune.distributed import Ranks


@dataclass(frozen=True)
class CopyFit:
    """The settings by which copies of a network are trained.

    Args:
        epochs: passes over the batches.
        lr: learning rate of AdamW at the first step, lowered to 0 along a cosine.
        distill: weight of the network's own outputs among the goals, the rest is that of the labels.
        seed: of dropout, and of the order in which a data loader draws.
        weight_decay: of the matrices.
        before_step: called before each step with the share of the training that is done.
        extra_loss: added to the loss of each copy.
        keep_zeros: whether matrices that hold zeros, as those that masks have pruned, keep them.
    """

    epochs: int
    lr: float
    distill: float
    seed: int
    weight_decay: float = 1e-2
    before_step: Callable[[float], None] | None = None
    extra_loss: Callable[[nn.Module], Tensor] | None = None
    keep_zeros: bool = False


def plain_copy(model: nn.Module) -> nn.Module:
    """Return a deep copy of a network, in eval mode and without the module of a method."""
    plain = copy.deepcopy(model).eval()
    if isinstance(getattr(plain, PREFIX, None), AdaptiveModule):
        delattr(plain, PREFIX)
    return plain


def fit_copies(
    copies: Sequence[nn.Module], network: nn.Module, batches: Batches, settings: CopyFit, ranks: Ranks
) -> None:
    r"""Train copies of a network in place, all on the same batches; the network itself is not changed.

    .. math:: L = (1 - a) \, CE(z, y) + a \, KL(\operatorname{softmax}(s) \,\|\, \operatorname{softmax}(z))

    with z the scores of a copy, s those of the network, y the label and a the setting ``distill``. Of several processes
    gradients are averaged over all inputs of a step, and running statistics over the processes.

    Args:
        copies: networks that take the same inputs; in eval mode again afterwards.
        network: in eval mode.
        batches: pairs of inputs and labels, read once in each epoch.
        settings: of the training.
        ranks: the processes, each of which passes its own part of the batches.

    Raises:
        ValueError: there are no inputs; the batches can be read only once; no batch has two inputs, which batch norms
            need; or the training diverged.

    Source: Hinton, Vinyals, Dean, Distilling the Knowledge in a Neural Network, 2015; widths that learn from the widest
    one: Yu, Huang, Universally Slimmable Networks, ICCV 2019, section 3.3.
    """
    training = _Training(copies, network, batches, settings, ranks)
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad():
        torch.manual_seed(settings.seed)
        for each in copies:
            each.train()
        for epoch in range(settings.epochs):
            training.run_epoch(epoch)
    for each in copies:
        each.eval()
        _average_statistics(each, ranks)
        if not all(bool(value.isfinite().all()) for value in each.parameters()):
            raise ValueError(f"the training of {type(each).__name__} diverged; lower lr={settings.lr:g}")


def distilled_loss(scores: Tensor, own_scores: Tensor, labels: Tensor, distill: float) -> Tensor:
    """Return the mean loss of a copy's scores (see :func:`fit_copies`).

    Args:
        scores: of the copy, ``(n, classes)``.
        own_scores: of the network.
        labels: int64 ``(n,)``.
        distill: weight of the network's scores among the goals.

    Example:
        >>> even = torch.zeros(1, 2)
        >>> distilled_loss(even, even, torch.tensor([0]), 0.5) == 0.5 * torch.log(torch.tensor(2.0))
        tensor(True)
    """
    found = F.log_softmax(scores, 1)
    divergence = F.kl_div(found, F.log_softmax(own_scores, 1), reduction="batchmean", log_target=True)
    return (1 - distill) * F.nll_loss(found, labels) + distill * divergence


class _Training:
    """The state of one training of copies."""

    def __init__(
        self, copies: Sequence[nn.Module], network: nn.Module, batches: Batches, settings: CopyFit, ranks: Ranks
    ) -> None:
        self.copies, self.network, self.batches = copies, network, batches
        self.settings, self.ranks = settings, ranks
        self.has_norms = any(isinstance(module, BATCH_NORMS) for each in copies for module in each.modules())
        self.parameters = [value for each in copies for value in each.parameters() if value.requires_grad]
        groups = [
            {"params": [value for value in self.parameters if value.dim() > 1], "weight_decay": settings.weight_decay},
            {"params": [value for value in self.parameters if value.dim() <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW([group for group in groups if group["params"]], settings.lr)
        matrices = [value for value in self.parameters if settings.keep_zeros and value.dim() > 1]
        zeros = [(value, value.detach() == 0) for value in matrices]
        self.zeros = [(value, is_zero) for value, is_zero in zeros if bool(is_zero.any())]
        self.length = self._longest(len(batches)) if isinstance(batches, Sized) else 0

    def run_epoch(self, epoch: int) -> None:
        """Take the steps of one epoch."""
        found, steps = labelled_batches(self.batches, device_of(self.network), "train"), 0
        for inputs, labels, share in self._together(found):
            done = (epoch + (min(1.0, steps / self.length) if self.length else 0.0)) / self.settings.epochs
            for group in self.optimizer.param_groups:
                group["lr"] = self.settings.lr * 0.5 * (1 + math.cos(math.pi * done))
            if self.settings.before_step is not None:
                self.settings.before_step(done)
            self.optimizer.zero_grad()
            with self.ranks.raise_together():
                if labels is not None:
                    self._backward(inputs, labels, share)
            self._sum_gradients()
            self.optimizer.step()
            for value, is_zero in self.zeros:
                value.detach().masked_fill_(is_zero, 0)
            steps += 1
        if not steps:
            raise ValueError(
                f"train has no batches to train on in epoch {epoch + 1} of {self.settings.epochs}: it is empty, or can "
                "be read only once, or has single inputs only, on which batch norms cannot be trained; give a list or "
                "a data loader of larger batches"
            )
        self.length = self.length or steps

    def _together(self, found: Iterator[tuple[Any, Tensor]]) -> Iterator[tuple[Any, Tensor | None, float]]:
        """Yield batches and their shares of the inputs of a step; no labels where only other processes have some."""
        while True:
            with self.ranks.raise_together():
                # A batch norm cannot be trained on a single input.
                inputs, labels = next(
                    (batch for batch in found if len(batch[1]) > 1 or not self.has_norms), (None, None)
                )
            count = 0 if labels is None else len(labels)
            total = int(self.ranks.sum(torch.tensor(count)))
            if not total:
                break
            yield inputs, labels, count / total

    def _backward(self, inputs: Any, labels: Tensor, share: float) -> None:
        inputs = map_tensors(lambda tensor: tensor.clone() if tensor.is_inference() else tensor, inputs)
        with torch.no_grad():
            own = call_model(self.network, inputs)
        for each in self.copies:
            scores = call_model(each, inputs)
            loss = distilled_loss(*_flat(scores, own, labels), self.settings.distill)
            if self.settings.extra_loss is not None:
                loss = loss + self.settings.extra_loss(each)
            (share * loss).backward()  # type: ignore[no-untyped-call]

    def _sum_gradients(self) -> None:
        if self.ranks.size == 1:
            return
        for value in self.parameters:
            if value.grad is None:
                value.grad = torch.zeros_like(value)
        flat = self.ranks.sum(torch.cat([_gradient(value).flatten() for value in self.parameters]))
        parts = torch.split(flat, [value.numel() for value in self.parameters])
        for value, part in zip(self.parameters, parts, strict=True):
            _gradient(value).copy_(part.view_as(value))

    def _longest(self, length: int) -> int:
        return max(int(each) for each in self.ranks.gather(torch.tensor(length)))


def _flat(scores: Tensor, own: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return scores and labels with one row each; of a token model with labels of each position, of all positions."""
    if scores.dim() == 3 and labels.dim() == 2:
        last_position(scores, labels)  # which checks the labels
        return scores.flatten(0, 1), own.flatten(0, 1), labels.flatten()
    last, wanted = last_position(scores, labels)
    return last, last_position(own), wanted


def _gradient(value: Tensor) -> Tensor:
    assert value.grad is not None
    return value.grad


@torch.no_grad()
def _average_statistics(network: nn.Module, ranks: Ranks) -> None:
    if ranks.size == 1:
        return
    for buffer in network.buffers():
        if buffer.is_floating_point():
            buffer.copy_(ranks.sum(buffer) / ranks.size)
