"""Fit heads on the features of a frozen network."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_dynprune.adaptive.base import Batches
from lightning_dynprune.adaptive.exits.heads import ExitHead
from lightning_dynprune.adaptive.forward_cut import captured
from lightning_dynprune.adaptive.labelled import device_of, labelled_batches, last_position
from lightning_dynprune.base import call_model
from lightning_dynprune.distributed import Ranks

_SMALLEST_SCALE = 1e-6  # of a feature; one that never changes gets the weight 0


@dataclass
class Reduced:
    """The features that heads read, the final output and the labels of many inputs, on the CPU.

    Args:
        features: of each cut, ``(n, features)``, as the head's ``reduce`` returns them.
        scores: class scores of the whole network, ``(n, classes)``.
        labels: int64 ``(n,)``.
    """

    features: list[Tensor] = field(default_factory=list)
    scores: Tensor = field(default_factory=lambda: torch.zeros(0, 1))
    labels: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))


@torch.no_grad()
def collect(
    model: nn.Module, heads: Mapping[str, ExitHead], batches: Batches, most: int | None, ranks: Ranks, name: str
) -> Reduced:
    """Run a network on labelled inputs and return what its heads read, of all processes in rank order.

    Args:
        model: the network, in eval mode.
        heads: head of each cut, by the module's name.
        batches: pairs of inputs and labels of this process.
        most: largest number of inputs over all processes; None: all.
        ranks: the processes.
        name: of the batches, for messages.

    Raises:
        ValueError: there are no inputs.
    """
    rows: list[list[Tensor]] = [[] for _ in range(len(heads) + 2)]
    left = math.inf if most is None else -(-most // ranks.size)
    with captured(model, list(heads)) as features, ranks.raise_together():
        for inputs, labels in labelled_batches(batches, device_of(model), name):
            scores, labels = last_position(call_model(model, inputs), labels)
            read = [head.reduce(features[cut]).float() for cut, head in heads.items()]
            for kept, tensor in zip(rows, [*read, scores.float(), labels], strict=True):
                kept.append(tensor[: int(min(left, len(labels)))].cpu().clone())
            left -= len(labels)
            if left <= 0:
                break
        if not rows[0]:
            raise ValueError(f"{name} has no inputs; give batches of inputs and labels")
    own = [torch.cat(kept) for kept in rows]
    if ranks.size > 1:
        gathered = ranks.concat_each([tensor.double().flatten() for tensor in own])
        own = [whole.view(-1, *tensor.shape[1:]).to(tensor.dtype) for whole, tensor in zip(gathered, own, strict=True)]
    return Reduced(own[:-2], own[-2], own[-1])


@dataclass(frozen=True)
class FitSettings:
    """The settings by which heads are fitted.

    Args:
        epochs: passes over the features.
        batch_size: inputs of one step.
        lr: learning rate at the first step, lowered to 0 along a cosine.
        weight_decay: of AdamW.
        distill: weight of the final output among the goals, the rest is that of the labels.
        seed: of the order of inputs.
    """

    epochs: int = 20
    batch_size: int = 256
    lr: float = 2e-3
    weight_decay: float = 1e-2
    distill: float = 0.5
    seed: int = 0


def fit_head(head: ExitHead, features: Tensor, scores: Tensor, labels: Tensor, settings: FitSettings) -> None:
    r"""Fit a head on features, in place, to labels and to the network's final output.

    .. math:: L = (1 - a) \, CE(z, y) + a \, KL(\operatorname{softmax}(s) \,\|\, \operatorname{softmax}(z))

    with z the head's scores, s the final ones, y the label and a the setting ``distill``. Features are fitted with zero
    mean and unit variance, which the first layer's weights absorb at the end.

    Args:
        head: the head, on the CPU.
        features: what it reads, ``(n, features)``.
        scores: final scores of the network, ``(n, classes)``.
        labels: int64 ``(n,)``.
        settings: of the fit.
    """
    finite = features.isfinite().all(1) & scores.isfinite().all(1)
    features, scores, labels = features[finite], scores[finite], labels[finite]
    if not len(labels):
        return
    mean, deviation = features.mean(0), features.std(0, correction=0)
    scale = torch.where(deviation > _SMALLEST_SCALE, 1 / deviation.clamp(min=_SMALLEST_SCALE), 0.0)
    parameters = list(head.parameters())
    steps = settings.epochs * math.ceil(len(labels) / settings.batch_size)
    # As __init__ of an optimizer and its steps may run inside no_grad or inference mode of the caller.
    with torch.inference_mode(False), torch.enable_grad():
        soft = F.log_softmax(scores, 1).clone()
        optimizer = torch.optim.AdamW(parameters, settings.lr, weight_decay=settings.weight_decay)
        for step, chosen in enumerate(_orders(len(labels), settings)):
            for group in optimizer.param_groups:
                group["lr"] = settings.lr * 0.5 * (1 + math.cos(math.pi * step / steps))
            loss = exit_loss(
                head.classify((features[chosen] - mean) * scale), soft[chosen], labels[chosen], settings.distill
            )
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    with torch.no_grad():
        weight = head.hidden.weight * scale
        head.hidden.bias.sub_(weight @ mean)
        head.hidden.weight.copy_(weight)


def exit_loss(scores: Tensor, final_log_probabilities: Tensor, labels: Tensor, distill: float) -> Tensor:
    """Return the loss of one head (see :func:`fit_head`).

    Args:
        scores: of the head.
        final_log_probabilities: of the network's end.
        labels: int64.
        distill: weight of the end among the goals.
    """
    found = F.log_softmax(scores, 1)
    divergence = F.kl_div(found, final_log_probabilities, reduction="batchmean", log_target=True)
    return (1 - distill) * F.nll_loss(found, labels) + distill * divergence


def _orders(count: int, settings: FitSettings) -> Iterator[Tensor]:
    """Yield the indices of each step's inputs."""
    generator = torch.Generator().manual_seed(settings.seed)
    for _ in range(settings.epochs):
        yield from torch.split(torch.randperm(count, generator=generator), settings.batch_size)


def head_scores(heads: Sequence[ExitHead], features: Sequence[Tensor]) -> list[Tensor]:
    """Return the class scores of each head for reduced features."""
    with torch.no_grad():
        return [head.classify(read) for head, read in zip(heads, features, strict=True)]
